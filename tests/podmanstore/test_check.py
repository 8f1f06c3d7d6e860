"""The checker finds nothing in a good store, and names each defect that is planted in one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from podmanstore.check import Defect, Kind, Severity, check_store, examine_store
from tests.podmanstore.handmade import Handmade, link_of, sha, simple
from tests.podmanstore.planting import CATALOG, PLANTED

HIDDEN = (CATALOG, ".wh.gone")


def kinds(made: Handmade) -> set[Kind]:
    return {defect.kind for defect in check_store(made.store)}


def only(made: Handmade, kind: Kind) -> Defect:
    """The one defect of this kind."""
    (defect,) = [defect for defect in check_store(made.store) if defect.kind is kind]
    return defect


@pytest.mark.parametrize("layers", [1, 2, 5])
@pytest.mark.parametrize("hide", [(), HIDDEN], ids=["plain", "shimmed"])
def test_a_good_store_has_no_defects(tmp_path: Path, layers: int, hide: tuple[str, ...]) -> None:
    """One image of some layers; each is a link to its layer, or a directory that hides its markers above it."""
    checked = examine_store(simple(tmp_path, layers, hide).store)
    assert checked.defects == ()
    assert (checked.layers, checked.images, checked.podman4_images) == (layers * (2 if hide else 1), 1, 1)
    assert checked.errors == 0


def test_layers_that_two_images_share_under_different_parents_are_good(tmp_path: Path) -> None:
    """The same layers in another order are other entries, and a base may stand by itself."""
    made = Handmade(tmp_path)
    a, b, c = (made.layer(name) for name in "abc")
    for name, layers in {"one": [a, b, c], "two": [a, c, b], "three": [a]}.items():
        made.image(f"example.org/{name}:1", layers)
    checked = examine_store(made.write().store)
    assert checked.defects == ()
    assert (checked.layers, checked.images) == (5, 3)


def test_a_store_without_images_is_good(tmp_path: Path) -> None:
    """Layers alone are enough for pulls to reuse them; an empty list of both is a new store."""
    made = Handmade(tmp_path)
    assert check_store(made.write().store) == []
    made.chain([made.layer("a"), made.layer("b")])
    assert check_store(made.write().store) == []


def test_an_entry_below_others_needs_no_record(tmp_path: Path) -> None:
    """A shim that stands only below other layers is no layer: `lower` names it, layers.json does not."""
    made = Handmade(tmp_path)
    made.entry(sha("shim"), [], None, ["deleted"])
    base = made.chain([made.layer("a")])
    top = sha(f"{base}+{made.layer('b').diff_id}")
    made.chain([made.layer("a"), made.layer("b")])
    for name, text in {
        "lower": f"l/{link_of(sha('shim'))}:l/{link_of(base)}",
        "lower-layers": f"{sha('shim')}:{base}",
    }.items():
        made.path_of(top, name).write_text(text)
    assert check_store(made.write().store) == []


def test_a_repeated_layer_may_stand_once(tmp_path: Path) -> None:
    """The kernel refuses a directory twice, so the lower of two equal layers is left out of `lower`."""
    made = Handmade(tmp_path)
    a, b = made.layer("a"), made.layer("b")
    made.image("example.org/twice:1", [a, b, a])
    assert kinds(made.write()) == {Kind.DIRECTORY_TWICE}
    _, middle, top = made.layers
    made.path_of(top, "lower").write_text(f"l/{link_of(middle)}")
    made.path_of(top, "lower-layers").write_text(middle)
    assert check_store(made.store) == []


def test_a_defect_reads_as_the_project_s_errors_do(tmp_path: Path) -> None:
    """Which thing, what is wrong with it, what to do."""
    made = simple(tmp_path)
    (made.store / "overlay-layers/layers.lock").unlink()
    defect = only(made, Kind.LOCK_MISSING)
    path = made.store / "overlay-layers/layers.lock"
    assert str(defect) == (
        f"file '{path}': is missing: podman 4 fails with every command, and podman 5 does or shows no images;"
        " build the store anew with `cvmfs-podmanstore build`"
    )
    assert defect.severity is Severity.ERROR


def test_errors_come_before_warnings(tmp_path: Path) -> None:
    """However they were found."""
    made = simple(tmp_path)
    (made.store / "overlay-images/images.lock").write_bytes(b"")
    made.path_of(list(made.layers)[2], "link").unlink()
    found = [defect.severity for defect in check_store(made.store)]
    assert found == sorted(found, key=lambda severity: severity is Severity.WARNING)
    assert set(found) == {Severity.ERROR, Severity.WARNING}


def test_a_missing_store_is_named(tmp_path: Path) -> None:
    """It breaks every podman command; a file in its place does too."""
    assert [defect.kind for defect in check_store(tmp_path / "none")] == [Kind.STORE_MISSING]
    (tmp_path / "file").touch()
    assert [defect.kind for defect in check_store(tmp_path / "file")] == [Kind.STORE_MISSING]


def test_an_empty_directory_is_no_store(tmp_path: Path) -> None:
    """Each directory and lock that is missing is named."""
    found = [defect.kind for defect in check_store(tmp_path)]
    assert found.count(Kind.DIRECTORY_MISSING) == 4
    assert found.count(Kind.LOCK_MISSING) == 2
    assert found.count(Kind.INDEX_MISSING) == 2


@pytest.mark.parametrize(("plant", "expected"), [pytest.param(*rest, id=name) for name, *rest in PLANTED])
def test_a_planted_defect_is_named(tmp_path: Path, plant: Callable[[Handmade], object], expected: set[Kind]) -> None:
    """A good store with one thing wrong: that thing is found, and nothing else."""
    made = simple(tmp_path)
    assert check_store(made.store) == []
    plant(made)
    found = check_store(made.store)
    assert {defect.kind for defect in found} == expected, "\n".join(map(str, found))
    assert all(defect.problem and defect.remedy for defect in found)


def test_every_kind_of_defect_is_planted() -> None:
    """Here, or in test_check_stores.py."""
    elsewhere = {
        Kind.STORE_MISSING, Kind.STORE_SILENT, Kind.STORE_PATH, Kind.STORE_PATH_LONG, Kind.DIRECTORY_MISSING,
        Kind.REPOSITORY_UNMOUNTED, Kind.REPOSITORY_SILENT, Kind.DEPTH, Kind.DEPTH_PODMAN_4, Kind.PAGE_PODMAN_4,
    }  # fmt: skip
    assert set[Kind]().union(elsewhere, *(expected for _, _, expected in PLANTED)) == set(Kind)
