"""The outline of a raw layer from one bounded walk."""

import os
import posixpath
import stat
import time
from pathlib import Path

import pytest

from cvmfsrepo.outline import Outline, Source
from cvmfsrepo.walk import LONGEST_INGEST, WalkExpired, outline_by_walk

LISTED = 1_600_000_000
INGEST = 1_700_000_000


def layer(root: Path, *names: bytes, catalog: bool = True) -> Path:
    """A layer as ingest leaves it: directories (named with a slash at the end) of the ingest's time and mode 0755."""
    base = os.fsencode(root)
    os.mkdir(base)
    for name in (*names, *([b".cvmfscatalog"] if catalog else [])):
        path = posixpath.join(base, name)
        os.makedirs(posixpath.dirname(path), exist_ok=True)
        if not name.endswith(b"/"):
            with open(path, "xb"):
                pass
    for folder, _, files in os.walk(base, topdown=False):
        for path in (*(posixpath.join(folder, file) for file in files), folder):
            os.utime(path, (INGEST, INGEST))
    return root


def listed(root: Path, name: str, mode: int, mtime: float = LISTED) -> None:
    """Gives a directory what the tar said of it."""
    (root / name).chmod(mode)
    os.utime(root / name, (mtime, mtime))


def walked(root: Path) -> Outline:
    return outline_by_walk(root, time.monotonic() + 60)


def test_markers_and_catalogs_at_any_depth(tmp_path: Path) -> None:
    """Each raw marker is a deletion and a hidden name; each catalog marker is hidden; names are bytes."""
    root = layer(
        tmp_path / "l",
        *(b".wh.gone", b"d/e/.wh.\xff", b"d/.wh..wh..opq", b"d/e/.cvmfscatalog", b"d/file", b"d/.wh..wh.plnk"),
    )
    outline = walked(root)
    assert outline.source is Source.WALK
    assert outline.whiteouts == (b"d/e/\xff", b"gone")
    assert outline.opaques == (b"d",)
    assert outline.hidden == (
        *(b".cvmfscatalog", b".wh.gone", b"d/.wh..wh..opq", b"d/.wh..wh.plnk", b"d/e/.cvmfscatalog", b"d/e/.wh.\xff"),
    )


def test_catalog_marker_is_hidden_before_it_is_there(tmp_path: Path) -> None:
    """A repository may cut a catalog at a layer's root at any later time; the outline is kept for ever."""
    assert walked(layer(tmp_path / "l", b"f", catalog=False)).hidden == (b".cvmfscatalog",)


@pytest.mark.parametrize("name", [b".wh.d/", b".wh.d/inside", b".wh..wh.aufs/x"])
def test_marker_that_is_a_directory(tmp_path: Path, name: bytes) -> None:
    """No name of the marker's notation is ever shown, of whatever type it is."""
    outline = walked(layer(tmp_path / "l", name))
    assert name.split(b"/")[0] in outline.hidden
    assert outline.whiteouts == ((b"d",) if name.startswith(b".wh.d") else ())


@pytest.mark.root
def test_overlay_s_own_whiteouts(tmp_path: Path) -> None:
    """A 0:0 device deletes by itself: known, but not hidden; another device is the image's."""
    root = layer(tmp_path / "l", b"d/f")
    os.mknod(root / "d/gone", stat.S_IFCHR, os.makedev(0, 0))
    os.mknod(root / "d/null", stat.S_IFCHR, os.makedev(1, 3))
    os.mkfifo(root / "pipe")
    outline = walked(root)
    assert (outline.devices, outline.whiteouts, outline.hidden) == ((b"d/gone",), (), (b".cvmfscatalog",))


def test_links_are_not_followed(tmp_path: Path) -> None:
    """A link to a directory is a name like any other; the walk never leaves the layer."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/.wh.x").touch()
    root = layer(tmp_path / "l", b"d/f")
    (root / "link").symlink_to("../outside")
    (root / "loop").symlink_to(".")
    assert walked(root).whiteouts == ()


def test_implied_with_a_catalog_marker(tmp_path: Path) -> None:
    """Implied is what has mode 0755 and the time of the ingest, with the room that a long ingest needs."""
    root = layer(tmp_path / "l", b"implied/f", b"old/f", b"private/f", b"tmp/f", b"early/f", b"late/f", b"other/f")
    listed(root, "old", 0o755)
    listed(root, "private", 0o700, INGEST)
    listed(root, "tmp", 0o1777, INGEST)
    listed(root, "early", 0o755, INGEST - LONGEST_INGEST)
    listed(root, "other", 0o755, INGEST - LONGEST_INGEST - 1)
    listed(root, "late", 0o755, INGEST + 3600)
    assert set(walked(root).implied) == {b"", b"implied", b"early", b"late"}


def test_implied_without_a_catalog_marker(tmp_path: Path) -> None:
    """With nothing to compare with every directory of 0755 counts: rather closed than open."""
    root = layer(tmp_path / "l", b"implied/f", b"old/f", b"private/f", catalog=False)
    listed(root, "old", 0o755)
    listed(root, "private", 0o700)
    listed(root, ".", 0o711)
    assert set(walked(root).implied) == {b"implied", b"old"}


def test_directories_of_the_outline(tmp_path: Path) -> None:
    """Those that a shim may need, with mode, owner, time and attributes; the others are left out."""
    root = layer(tmp_path / "l", b"d/.wh.x", b"plain/f", b"in/side/f")
    listed(root, "plain", 0o755)
    listed(root, "in", 0o755)
    listed(root, "d", 0o2750)
    os.setxattr(root / "d", "user.x", b"1")
    entries = {entry.path: entry for entry in walked(root).directories}
    assert set(entries) == {b"", b"d", b"in", b"in/side"}
    found = entries[b"d"]
    assert (found.mode, found.mtime, found.xattrs) == (stat.S_IFDIR | 0o2750, LISTED * 10**9, {"user.x": b"1"})
    assert (found.uid, found.gid, found.implied) == (os.getuid(), os.getgid(), False)


def test_deadline(tmp_path: Path) -> None:
    """A walk whose time has come gives up, and says of which layer."""
    with pytest.raises(WalkExpired, match=r"/l did not end in time"):
        outline_by_walk(layer(tmp_path / "l", b"d/f"), time.monotonic() - 1)


def test_deadline_between_two_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is read on the way, not only at the start."""
    root = layer(tmp_path / "l", *(b"%d/f" % number for number in range(20)))
    clock = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    with pytest.raises(WalkExpired):
        outline_by_walk(root, 10)


def test_an_error_is_not_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that cannot be listed fails the walk: half an outline would be kept for ever."""
    root, scandir = layer(tmp_path / "l", b"a/f", b"b/.wh.x"), os.scandir

    def fail(path: bytes) -> object:
        if path.endswith(b"/b"):
            raise OSError(5, os.strerror(5))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(OSError) as caught:
        walked(root)
    assert caught.value.errno == 5
    with pytest.raises(FileNotFoundError):
        walked(tmp_path / "none")
