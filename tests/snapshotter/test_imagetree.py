"""The names of an image from listings of its layers, and what paths in it lead to."""

import os
from pathlib import Path

import pytest

from cvmfsrepo.compare import scan
from cvmfsrepo.digest import Digest
from cvmfsrepo.guarded import GuardedRepository
from cvmfsrepo.layout import Layout
from cvmfsrepo.repository import Repository
from cvmfsrepo.whiteouts import Markers
from snapshotter.imagetree import ImageTree, Kind, merged
from snapshotter.prefetch import Bounds, Prefetch, places
from tests.fidelity.publishing import Form, publish
from tests.images import nasty, oracle
from tests.images.ocilayout import write_image

D, F, L = Kind.DIRECTORY, Kind.FILE, Kind.LINK


def names(tree: ImageTree) -> dict[bytes, int]:
    return {path: node.layer for path, node in tree.walk()}


def test_the_topmost_layer_shows_a_name() -> None:
    """Directories merge; anything else is replaced, with all that was below it."""
    tree = merged([({b"a": D, b"a/x": F, b"b": D, b"b/y": F}, None), ({b"a": D, b"a/z": F, b"b": F}, None)])
    assert names(tree) == {b"a": 1, b"a/x": 0, b"a/z": 1, b"b": 1}


def test_markers_of_both_notations_delete() -> None:
    """A record's list, raw names, and overlayfs's devices; none of them is a name of the image."""
    base = ({b"d": D, b"d/x": F, b"d/y": F, b"e": F, b"f": F}, None)
    raw = {b"d": D, b"d/.wh..wh..opq": F, b"d/z": F, b".wh.e": F, b".cvmfscatalog": F, b"f": Kind.WHITEOUT}
    assert names(merged([base, (raw, None)])) == {b"d": 1, b"d/z": 1}
    recorded = ({b"d": D, b"d/z": F}, Markers((b"e", b"f"), (b"d",)))
    assert names(merged([base, recorded])) == {b"d": 1, b"d/z": 1}


def test_links_lead_within_the_image() -> None:
    """Absolute and relative ones, through directories, never above the root; a loop leads nowhere."""
    links = {b"lib": b"usr/lib", b"usr/lib/a": b"/bin/b", b"bin/up": b"../../../bin/b", b"loop": b"loop"}
    listing = {b"usr": D, b"usr/lib": D, b"bin": D, b"bin/b": F, **dict.fromkeys(links, L)}
    tree = merged([(listing, None)])
    for path, leads_to in (
        (b"/lib/a", b"bin/b"), (b"bin/up", b"bin/b"), (b"/lib", b"usr/lib"), (b"/", b""), (b"loop", None),
        (b"bin/none", None), (b"/bin/./../bin/b", b"bin/b"),
    ):  # fmt: skip
        assert tree.resolve(path, lambda layer, link: links[link]) == leads_to


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.parametrize("form", [Form.OVERLAY, Form.OCI, Form.DUCC])
def test_the_names_of_nasty_images_are_the_specifications(form: Form, tmp_path: Path) -> None:
    """In each form of a repository; catalog markers of the image's own may be left out, and so may an opaque mark that
    only an attribute tells, where there is no record."""
    repository = GuardedRepository(Repository("r", Layout(tmp_path / "repository")))
    for number, (name, stack) in enumerate(sorted(nasty.ALL.items())):
        image = write_image(tmp_path / "layout", stack.tars(), name)
        publish(image, tmp_path / "repository", f"registry.example.org/test/i{number}:1", form)
        truth = tmp_path / f"truth-{number}"
        oracle.apply(stack.tars(), truth)
        found, missing = places([repository], map(Digest.parse, image.layers))
        assert missing == []
        listed = set(names(Prefetch(found, Bounds(rate=1e6)).list_all()))
        expected = set(scan(truth)) - {b""}
        assert {path for path in expected ^ listed if os.path.basename(path) != b".cvmfscatalog"} == set(), name
