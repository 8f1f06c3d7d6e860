"""Shims on a disk under a real kernel overlay: raw layers show what their tars mean, and no marker."""

import os
import posixpath
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from cvmfsrepo.compare import Difference, compare, scan
from cvmfsrepo.digest import Digest
from cvmfsrepo.outline import Outline, outline_of
from cvmfsrepo.shims import hide_shim, white_shim
from cvmfsrepo.tree import Entry, Notation, make_record
from cvmfsrepo.walk import outline_by_walk
from cvmfsrepo.whiteouts import Markers, is_oci_marker
from snapshotter.below import find_below
from snapshotter.shimstore import ShimStore
from tests import mounting
from tests.examples import examples
from tests.images import nasty, oracle
from tests.images.stack import Layers, Stack
from tests.images.strategies import stacks_equal_to_pull
from tests.images.tarlayer import Device, Dir, Fifo, File, Hardlink, Opaque, Symlink, Whiteout, layer_tar, member_name
from tests.images.tarlayer import Entry as Member

pytestmark = pytest.mark.root

CATALOG = b".cvmfscatalog"
DIGEST = Digest("0" * 64)
UNKNOWN_TO_A_WALK = {
    "own_catalog_files": [(CATALOG, "missing"), (b"data/.cvmfscatalog", "missing")],
    "setgid_directories_listed_after_their_contents": [(path, "gid") for path in (b"g/early", b"m/early", b"o/early")],
}
"""Only a record tells the image's own files from a catalog's, and follows the order of the tar."""
NASTY = {name: stack for name, stack in nasty.EQUAL_TO_PULL.items() if len(stack.layers) < 20}


def ingest(members: Sequence[Member], root: Path, source: str = "walk") -> None:
    """What a raw ingest that keeps owners makes of a tar: markers are files, unlisted directories are 0755 and new.

    For a record it is what our publisher makes: an unlisted directory takes the group of one that is setgid by then.
    """
    base = os.fsencode(root)
    os.mkdir(base, 0o755)
    for member in members:
        path = posixpath.join(base, _path(member))
        _need_directory(posixpath.dirname(path))
        _make(member, path, base)
        if isinstance(member, Dir) and source == "record":
            _describe(path, member)
    for member in members:
        if isinstance(member, Dir):
            _describe(posixpath.join(base, _path(member)), member)
    with open(posixpath.join(base, CATALOG), "ab"):
        pass


def _path(member: Member) -> bytes:
    return os.fsencode(os.path.normpath(member_name(member)))


def _need_directory(path: bytes) -> None:
    if not os.path.isdir(path):
        _need_directory(posixpath.dirname(path))
        os.mkdir(path)
        os.chmod(path, 0o755)


def _make(member: Member, path: bytes, base: bytes) -> None:
    if isinstance(member, Dir):
        _need_directory(path)
        return
    if os.path.lexists(path):
        os.unlink(path)  # a member that stands twice: the last one counts
    match member:
        case Symlink():
            os.symlink(os.fsencode(member.target), path)
        case Hardlink():
            os.link(posixpath.join(base, os.fsencode(os.path.normpath(member.target))), path, follow_symlinks=False)
        case Device():
            kind = stat.S_IFBLK if member.block else stat.S_IFCHR
            os.mknod(path, kind, os.makedev(member.major, member.minor))
        case Fifo():
            os.mkfifo(path)
        case _:
            with open(path, "xb") as file:
                file.write(member.content if isinstance(member, File) else b"")
    _describe(path, member)


def _describe(path: bytes, member: Member) -> None:
    os.chown(path, member.uid, member.gid, follow_symlinks=False)
    if not os.path.islink(path):
        os.chmod(path, member.mode)
    for name, value in member.xattrs.items():
        os.setxattr(path, name, value, follow_symlinks=False)
    os.utime(path, ns=(member.mtime_ns, member.mtime_ns), follow_symlinks=False)


def walked(members: Sequence[Member], root: Path) -> Outline:
    return outline_by_walk(root, time.monotonic() + 60)


def recorded(members: Sequence[Member], root: Path) -> Outline:
    """The outline that the publisher's record gives, the record made from the layer and its tar's list."""
    listed = {b"" if (path := _path(member)) == b"." else path for member in members if isinstance(member, Dir)}
    extras = [CATALOG] if CATALOG not in map(_path, members) else []
    entries, markers = list[Entry](), list[bytes]()
    for path, entry in scan(root).items():
        if is_oci_marker(posixpath.basename(path)):
            markers.append(path)
        elif path not in extras:
            implied = entry.is_directory and path not in listed
            fields = (entry.mode, entry.uid, entry.gid, entry.mtime)
            entries.append(Entry(path, *fields, xattrs=entry.xattrs, implied=implied))
    found = Markers.of_oci_names(markers)
    return outline_of(make_record(DIGEST, DIGEST, Notation.OCI, entries, found, extras).head)


OUTLINES = {"walk": walked, "record": recorded}


@contextmanager
def served(layers: Layers, work: Path, source: str) -> Iterator[Path]:
    """The stack as a node shows it read-only: hide, layer, white of each layer, the topmost first."""
    store, lowers = ShimStore(work / "node"), list[str]()
    for place in (store.shims, store.layers):
        place.mkdir(parents=True)
    for number, members in enumerate(layers):
        root = work / f"layer{number}"
        ingest(members, root, source)
        outline = OUTLINES[source](members, root)
        below = tuple(lowers)
        hide = hide_shim(outline, lambda path, below=below: find_below(below, path))  # type: ignore[misc]
        white = white_shim(outline)
        shims = [store.ensure(hide), *([store.ensure(white)] if white else [])]
        parts = [str(store.shims / shims[0]), str(root), *(str(store.shims / key) for key in shims[1:])]
        lowers = [*parts, *lowers]
    once = dict.fromkeys(lowers)  # what stands higher already adds nothing, and the kernel refuses it
    with mounting.overlay([Path(lower) for lower in once], work / "merged") as merged:
        yield merged


def found_differences(layers: Layers, work: Path, source: str) -> list[Difference]:
    """Against the tars laid one on top of another by hand; the times of unlisted directories mean nothing."""
    undated = oracle.apply([layer_tar(layer) for layer in layers], work / "expected")
    free = {b"" if name == "." else os.fsencode(name) for name in undated} | {b""}
    with served(layers, work, source) as merged:
        assert not [path for path in scan(merged) if is_oci_marker(posixpath.basename(path))]
        return compare(work / "expected", merged, ignore=lambda entry, field: field == "mtime" and entry.path in free)


@pytest.mark.parametrize("source", OUTLINES)
@pytest.mark.parametrize("stack", NASTY.values(), ids=NASTY)
def test_nasty_stacks(tmp_path: Path, stack: Stack, source: str) -> None:
    """Opaque over opaque, deleted and made again, markers whose parent is only below, odd names, and the rest: the
    merged tree is the one that the image means, from a walk and from a record."""
    found = [(difference.path, difference.field) for difference in found_differences(stack.layers, tmp_path, source)]
    assert found == (UNKNOWN_TO_A_WALK.get(stack.name, []) if source == "walk" else [])


@pytest.mark.parametrize("source", OUTLINES)
def test_whiteout_of_a_directory_with_markers_inside(tmp_path: Path, source: str) -> None:
    """The lower layer's devices and hidden names go with their directory, also when it is made again."""
    base = (Dir("d"), File("d/x"), File("d/y"), Dir("d/e"), File("d/e/z"))
    marked = (Dir("d"), Whiteout("d/x"), Dir("d/e"), Opaque("d/e"), File("d/e/new"))
    stacks: tuple[Layers, ...] = (
        (base, marked, (Whiteout("d"),)),
        (base, marked, (Whiteout("d"),), (Dir("d", mode=0o700), File("d/x", b"again"))),
        (base, marked, (Dir("d", mode=0o711), Opaque("d"), File("d/y", b"other"))),
        (base, marked, (Whiteout("d/e"),), (Dir("d"), Dir("d/e"), File("d/e/z", b"again"))),
    )
    for number, layers in enumerate(stacks):
        (tmp_path / str(number)).mkdir()
        assert found_differences(layers, tmp_path / str(number), source) == []


@pytest.mark.parametrize("source", OUTLINES)
def test_same_layer_deletes_and_makes_again(tmp_path: Path, source: str) -> None:
    """A marker and the directory itself in one layer: what was in it is gone, in whichever order the tar has them."""
    for name in ("same_layer_deletes_and_makes_a_directory", "same_layer_makes_and_deletes_a_directory"):
        (tmp_path / name).mkdir()
        assert found_differences(nasty.ALL[name].layers, tmp_path / name, source) == []


@pytest.mark.parametrize("source", OUTLINES)
@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(layers=stacks_equal_to_pull())
def test_any_stack(tmp_path_factory: pytest.TempPathFactory, source: str, layers: Layers) -> None:
    """Random stacks of a few names, with every type and marker."""
    assert found_differences(layers, tmp_path_factory.mktemp("stack"), source) == []


def test_concealed_at_any_depth(tmp_path: Path) -> None:
    """A catalog marker of a subdirectory is hidden like the root's, and one that is the image's own shines through."""
    layers = ((Dir("d"), File("d/.cvmfscatalog", b"own")), (Dir("d"), File("d/x")))
    for number, members in enumerate(layers):
        ingest(members, tmp_path / str(number))
    (tmp_path / "1/d/.cvmfscatalog").touch()
    store = ShimStore(tmp_path)
    store.shims.mkdir()
    lower = [str(tmp_path / "0")]
    outline = walked(layers[1], tmp_path / "1")
    key = store.ensure(hide_shim(outline, lambda path: find_below(lower, path)))
    with mounting.overlay([store.shims / key, tmp_path / "1", tmp_path / "0"], tmp_path / "merged") as merged:
        assert (merged / "d/.cvmfscatalog").read_bytes() == b"own"
        assert sorted(os.listdir(merged / "d")) == [".cvmfscatalog", "x"]
