"""The checker on whole stores: too deep, too long, of DUCC's shape, on a repository that is away or hangs, damaged."""

import os
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from podmanstore.check import Defect, Kind, Severity, check_store, examine_store
from tests.examples import examples
from tests.mounting import standin
from tests.podmanstore.handmade import Handmade, encode, sha, simple


def kinds(defects: list[Defect]) -> set[Kind]:
    return {defect.kind for defect in defects}


def deep(root: Path, layers: int) -> Handmade:
    made = Handmade(root)
    made.image("example.org/deep:1", [made.layer(str(number)) for number in range(layers)])
    return made.write()


@pytest.mark.parametrize(
    ("layers", "found", "podman4"),
    [
        (64, None, 1),
        pytest.param(128, Kind.PAGE_PODMAN_4, 0, marks=pytest.mark.slow),
        pytest.param(129, Kind.DEPTH_PODMAN_4, 0, marks=pytest.mark.slow),
        pytest.param(300, Kind.DEPTH_PODMAN_4, 0, marks=pytest.mark.slow),
    ],
)
def test_depth_for_podman_4_is_a_warning(short_path: Path, layers: int, found: Kind | None, podman4: int) -> None:
    """128 directories at most, and no more than fit into a page of options; podman 5 mounts 500."""
    checked = examine_store(deep(short_path, layers).store)
    assert kinds(list(checked.defects)) - {Kind.STORE_PATH_LONG} == ({found} if found else set())
    assert checked.podman4_images == podman4
    assert checked.errors == 0


@pytest.mark.slow
def test_nobody_mounts_more_than_500_directories(short_path: Path) -> None:
    """The kernel's limit."""
    checked = examine_store(deep(short_path, 501).store)
    assert [(defect.kind, defect.severity) for defect in checked.defects] == [(Kind.DEPTH, Severity.ERROR)]
    assert checked.podman4_images == 0


def test_a_path_that_is_too_long_says_which_would_do(short_path: Path) -> None:
    """100 layers fit under a short path and not under a long one: by so many characters."""
    long = short_path / ("x" * 30)
    made = deep(long, 70)
    defects = check_store(made.store)
    assert kinds(defects) == {Kind.PAGE_PODMAN_4, Kind.STORE_PATH_LONG}
    longest = (4095 - 300 - 70 * (len("/overlay/l/") + 10 + 1)) // 70
    page = next(defect for defect in defects if defect.kind is Kind.PAGE_PODMAN_4)
    assert "example.org/deep:1" in page.where
    assert f"may have {longest} characters, and has {len(str(made.store))}" in page.problem
    fitting = short_path / ("y" * (longest - len(str(short_path)) - 1))
    made.store.rename(fitting)
    assert check_store(fitting) == []
    fitting.rename(longer := fitting.with_name(fitting.name + "y"))
    assert Kind.PAGE_PODMAN_4 in kinds(check_store(longer))


def test_a_path_with_a_colon_is_an_error(tmp_path: Path) -> None:
    """Mount options separate by it."""
    made = simple(tmp_path)
    made.store.rename(tmp_path / "a:b")
    assert kinds(check_store(tmp_path / "a:b")) == {Kind.STORE_PATH}


@pytest.mark.parametrize(
    "name",
    [
        "simple", "simple:1", "library/simple:1", "docker.io/simple:1", "docker.io/library/simple", "a.b/C:1",
        "registry.hub.docker.com/library/simple:1", "index.docker.io/a/b:1", "a.b/c:1@sha256:" + "0" * 64, "a.b/c: 1",
        "a.b/c@sha256:1", "https://a.b/c:1", "",
    ],
)  # fmt: skip
def test_a_name_that_podman_does_not_look_for_is_a_warning(tmp_path: Path, name: str) -> None:
    """Not in full, of Docker Hub under another of its names, or no name at all."""
    made = simple(tmp_path)
    made.edit("images", lambda records: records[0].update(names=[name]))
    assert kinds(check_store(made.store)) == {Kind.NAME_NOT_NORMALISED}


@pytest.mark.parametrize(
    "name",
    ["docker.io/library/a:1", "docker.io/a/b:1", "localhost/a:1", "a.b:50/c/d_e/f--g:V.1_", "a:5000/b:1",
     "127.0.0.1:5000/a@sha256:" + "0" * 64],
)  # fmt: skip
def test_a_full_name_is_good(tmp_path: Path, name: str) -> None:
    """As podman spells it."""
    made = simple(tmp_path)
    made.edit("images", lambda records: records[0].update(names=[name]))
    assert check_store(made.store) == []


def ducc_store(root: Path) -> Path:
    """A store as DUCC writes it, in the repository: two images that share layers in another order."""
    made = Handmade(root)
    store = made.repository / "podmanStore"
    a, b, c = (made.layer(name, [".cvmfscatalog", "file"]) for name in "abc")
    images, records = [], []
    for name, layers in {"one": [a, b, c], "two": [a, c, b]}.items():
        image = sha(f"config {name}")
        config = {"MediaType": "application/vnd.docker.container.image.v1+json", "Digest": f"sha256:{image}"}
        directory = store / "overlay-images" / image
        directory.mkdir(parents=True)
        metadata = made.repository / ".metadata/registry.hub.docker.com/library" / f"{name}:1"
        metadata.mkdir(parents=True)
        (metadata / "manifest.json").write_bytes(encode({"Config": config, "Layers": []}))
        (directory / "manifest").symlink_to(
            f"../../../.metadata/registry.hub.docker.com/library/{name}:1/manifest.json"
        )
        (directory / "=Y29uZmln").write_text("{}")
        reference = f"registry.hub.docker.com/library/{name}:1"
        images.append(
            {"id": image, "names": [reference], "layer": layers[-1].diff_id, "created": "2024-01-01T00:00:00Z"}
        )
        for number, layer in enumerate(layers):
            parent = layers[number - 1].diff_id if number else ""
            records.append({"id": layer.diff_id, "parent": parent, "created": "2024-01-01T00:00:00Z",
                            "compressed-diff-digest": f"sha256:{layer.blob}", "compressed-size": 9,
                            "diff-digest": f"sha256:{layer.diff_id}", "diff-size": 9})  # fmt: skip
            entry, link = store / "overlay" / layer.diff_id, layer.diff_id[:26].upper()
            if entry.is_dir():
                continue
            entry.mkdir(parents=True)
            (entry / "diff").symlink_to(os.path.relpath(layer.target, entry))
            (entry / "link").write_text(link)
            (store / "overlay/l").mkdir(exist_ok=True)
            (store / "overlay/l" / link).symlink_to(f"../{layer.diff_id}/diff")
            if number:
                (entry / "lower").write_text(":".join(below.diff_id[:26].upper() for below in layers[number - 1 :: -1]))
    for kind, content in (("images", images), ("layers", records)):
        directory = store / f"overlay-{kind}"
        directory.mkdir(exist_ok=True)
        (directory / f"{kind}.json").write_bytes(encode(content))
        (directory / f"{kind}.lock").touch()
    return store


def test_the_defects_of_ducc_s_store_are_named(tmp_path: Path) -> None:
    """Layers by diff id and listed twice, relative links, short links without l/, names, tables, locks."""
    assert kinds(check_store(ducc_store(tmp_path))) >= {
        Kind.DIFF_ID_AS_LAYER_ID, Kind.LAYER_TWICE, Kind.DIFF_RELATIVE, Kind.LOWER_MALFORMED, Kind.NAME_NOT_NORMALISED,
        Kind.BIG_DATA_UNLISTED, Kind.BIG_DATA_MISSING, Kind.MANIFEST_DIGEST_MISSING, Kind.LOCK_SHORT,
        Kind.CATALOG_VISIBLE, Kind.COMPRESSION_MISSING,
    }  # fmt: skip


def test_manifests_with_capitalised_keys_are_read(tmp_path: Path) -> None:
    """As DUCC keeps them, and as Go reads them."""
    assert not kinds(check_store(ducc_store(tmp_path))) & {Kind.MANIFEST_BROKEN, Kind.IMAGE_ID}


def test_a_repository_that_is_not_mounted_is_one_defect(tmp_path: Path) -> None:
    """Its layers are not called lost, one by one: it may come back."""
    made = simple(tmp_path, 5)
    made.repository.rename(tmp_path / "elsewhere")
    (defect,) = check_store(made.store)
    assert defect.kind is Kind.REPOSITORY_UNMOUNTED
    assert str(made.repository) in defect.where
    assert "5 links" in defect.problem
    made.repository.mkdir()  # a mount point without its mount
    assert kinds(check_store(made.store)) == {Kind.REPOSITORY_UNMOUNTED}


def test_a_layer_that_left_the_repository_is_named(tmp_path: Path) -> None:
    """The repository is there, and one of its layers is not."""
    made = simple(tmp_path, 5)
    shutil.rmtree(made.layer("3").target)
    (defect,) = check_store(made.store)
    assert defect.kind is Kind.DIFF_DANGLING
    assert list(made.layers)[3] in defect.where


@pytest.mark.root
@pytest.mark.fuse
def test_a_repository_that_hangs_costs_one_deadline(tmp_path: Path) -> None:
    """One defect for a repository that does not answer, and the rest of the store is checked."""
    made = simple(tmp_path, 60)
    (made.store / "overlay-images/images.lock").write_bytes(b"")
    made.repository.rename(tmp_path / "source")
    with standin(tmp_path / "source", made.repository) as running:
        assert kinds(check_store(made.store)) & {Kind.REPOSITORY_SILENT, Kind.REPOSITORY_UNMOUNTED} == set()
        running.fault("stall", "/.layers")
        began = time.monotonic()
        defects = check_store(made.store, repository_deadline=1.0)
        took = time.monotonic() - began
        running.clear()
    assert [defect.problem for defect in defects if defect.kind is Kind.REPOSITORY_SILENT] == [
        "does not answer within 1 s: 60 links into it were not checked"
    ]
    assert Kind.LOCK_SHORT in kinds(defects)
    assert took < 4.0


@pytest.mark.root
@pytest.mark.fuse
def test_a_store_that_hangs_itself_is_one_defect(tmp_path: Path) -> None:
    """A store in the repository is no safer than the repository."""
    (tmp_path / "source").mkdir()
    simple(tmp_path / "source")
    with standin(tmp_path / "source", tmp_path / "mount") as running:
        running.fault("stall")
        defects = check_store(tmp_path / "mount/store", repository_deadline=0.5)
        running.clear()
    assert [defect.kind for defect in defects] == [Kind.STORE_SILENT]


@pytest.mark.root
@pytest.mark.fuse
def test_a_dead_client_is_an_unmounted_repository(tmp_path: Path) -> None:
    """Every name answers ENOTCONN."""
    made = simple(tmp_path)
    made.repository.rename(tmp_path / "source")
    with standin(tmp_path / "source", made.repository) as running:
        running.kill()
        assert Kind.REPOSITORY_UNMOUNTED in kinds(check_store(made.store))


FILES = st.integers(0, 10_000)


@settings(max_examples=examples(300))
@given(
    file=FILES, changes=st.lists(st.tuples(FILES, st.integers(0, 255)), min_size=1, max_size=8), cut=st.none() | FILES
)
@example(file=0, changes=[(0, 0)], cut=0)
def test_damage_never_raises(
    tmp_path_factory: pytest.TempPathFactory, file: int, changes: list[tuple[int, int]], cut: int | None
) -> None:
    """Bytes of any file changed, and the file perhaps cut short: the answer is a list of defects."""
    root = tmp_path_factory.getbasetemp() / "damage"
    made = simple(root) if not root.exists() else Handmade(root)
    files = sorted(path for path in made.store.rglob("*") if path.is_file() and path.parent.name != "l")
    path = files[file % len(files)]
    good = path.read_bytes()
    bad = bytearray(good)
    for at, value in changes:
        bad[at % len(bad)] = value
    path.write_bytes(bad[:cut])
    try:
        found = check_store(made.store)
    finally:
        path.write_bytes(good)
    assert all(str(defect) for defect in found)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = (
    "id", "parent", "diff-digest", "compressed-diff-digest", "diff-size", "names", "layer", "digest", "created",
    "big-data-names", "big-data-sizes", "big-data-digests", "flags", "toc-digest", "compression",
)  # fmt: skip


@settings(max_examples=examples(300))
@given(kind=st.sampled_from(("layers", "images")), changes=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4))
@example(kind="images", changes={"big-data-names": ["", ".", "..", "a/", "\0", "é", "x" * 300]})
@example(kind="images", changes={"layer": "\0", "names": ["\ud800".encode("utf-8", "replace").decode()]})
def test_records_of_any_content_never_raise(
    tmp_path_factory: pytest.TempPathFactory, kind: str, changes: dict[str, object]
) -> None:
    """Well-formed JSON that means nothing."""
    root = tmp_path_factory.getbasetemp() / "records"
    made = simple(root) if not root.exists() else Handmade(root)
    path = made.store / f"overlay-{kind}/{kind}.json"
    good = path.read_bytes()
    made.edit(kind, lambda records: records[-1].update(changes))
    try:
        found = check_store(made.store)
    finally:
        path.write_bytes(good)
    assert all(str(defect) for defect in found)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink(path, path)])
def test_a_file_of_another_kind_is_not_waited_for(tmp_path: Path, make: object) -> None:
    """A pipe, a directory or a link to itself in a file's place is a defect."""
    assert callable(make)
    store = simple(tmp_path).store
    for file in [path for path in store.rglob("*") if path.is_file() and path.parent.name != "l"]:
        good = file.rename(tmp_path / "good")
        make(file)
        assert check_store(store), file
        file.rmdir() if file.is_dir() else file.unlink()
        good.rename(file)
    assert check_store(store) == []


@pytest.mark.slow
def test_a_big_store_takes_seconds(short_path: Path) -> None:
    """800 layers below 100 images; the bound is for a busy machine."""
    made = Handmade(short_path)
    shared = [made.layer(f"base {number}") for number in range(12)]
    for image in range(100):
        made.image(f"example.org/i{image}:1", [*shared, *(made.layer(f"{image} {number}") for number in range(8))])
    made.write()
    began = time.monotonic()
    checked = examine_store(made.store)
    took = time.monotonic() - began
    assert checked.defects == ()
    assert (checked.layers, checked.podman4_images) == (812, 100)
    assert took < 3
