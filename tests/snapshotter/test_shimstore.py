"""Shims on the node's disk: named by what they hold, whole or not there."""

import errno
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cvmfsrepo import xattrs
from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss
from cvmfsrepo.outline import Outline, Source
from cvmfsrepo.shims import Shim
from cvmfsrepo.tree import Entry
from snapshotter.shimstore import ShimStore

UID, GID = os.geteuid(), os.getegid()
NAME = b"o:d,d \\=\xff"
LAYER = Digest.of(b"layer")


def directory(path: bytes, mode: int = 0o755, mtime: int = 1, **attributes: bytes) -> Entry:
    named = {f"user.{name}": value for name, value in attributes.items()}
    return Entry(path, stat.S_IFDIR | mode, UID, GID, mtime, xattrs=named)


SHIM = Shim(
    directories=(directory(b"", 0o751, 10**18 + 123456789), directory(b"d", 0o1777, 5, a=b"1"), directory(b"d/e")),
    whiteouts=(b".cvmfscatalog", b"d/e/" + NAME),
    files=((Entry(b"d/file", stat.S_IFREG | 0o640, UID, GID, 7, 3, xattrs={"user.b": b"\0"}), b"abc"),),
)


@pytest.fixture
def store(tmp_path: Path) -> ShimStore:
    for name in ("shims", "layers"):
        (tmp_path / name).mkdir()
    return ShimStore(tmp_path)


def test_a_shim_is_written_with_its_metadata(store: ShimStore) -> None:
    """Modes, nanosecond times and attributes of its directories, which decide in a merge; devices 0:0; files."""
    base = store.shims / store.ensure(SHIM)
    for entry in (*SHIM.directories, *(entry for entry, _ in SHIM.files)):
        path = os.path.join(os.fsencode(base), entry.path) if entry.path else os.fsencode(base)
        status = os.lstat(path)
        assert (status.st_mode, status.st_uid, status.st_gid) == (entry.mode, UID, GID)
        assert status.st_mtime_ns == entry.mtime
        assert xattrs.read_all(path) == entry.xattrs
    for name in SHIM.whiteouts:
        status = os.lstat(os.path.join(os.fsencode(base), name))
        assert stat.S_ISCHR(status.st_mode)
        assert status.st_rdev == 0
    assert (base / "d" / "file").read_bytes() == b"abc"


@pytest.mark.root
def test_owners_are_those_of_the_layer(store: ShimStore) -> None:
    """Before modes, for a change of owner takes set-id bits away."""
    entry = Entry(b"", stat.S_IFDIR | 0o6755, 1000, 2000, 3)
    status = (store.shims / store.ensure(Shim((entry,), ()))).stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1000, 2000, 0o6755)


def test_a_shim_is_named_by_what_it_holds(store: ShimStore) -> None:
    """The same one twice is one directory; any difference makes another."""
    key = store.ensure(SHIM)
    assert store.ensure(SHIM) == key
    others = [
        Shim(SHIM.directories, SHIM.whiteouts),
        Shim(SHIM.directories, SHIM.whiteouts[:1], SHIM.files),
        Shim((directory(b"", 0o750), *SHIM.directories[1:]), SHIM.whiteouts, SHIM.files),
    ]
    assert len({key, *(store.ensure(other) for other in others)}) == 4
    assert len(os.listdir(store.shims)) == 4


def test_many_write_the_same_shim_at_once(store: ShimStore) -> None:
    """All get its key, one directory stands, and nothing staged is left."""
    start = threading.Barrier(8)

    def ensure(_: int) -> str:
        start.wait()
        return store.ensure(SHIM)

    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(ensure, range(8)))
    assert [*keys] == os.listdir(store.shims)


def test_an_interrupted_write_is_no_shim(store: ShimStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full leaves nothing under the key; the next call writes it whole."""

    def full(path: object, *, ns: tuple[int, int]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "utime", full)
        with pytest.raises(OSError, match="No space"):
            store.ensure(SHIM)
    assert os.listdir(store.shims) == []
    assert (store.shims / store.ensure(SHIM) / "d" / "file").exists()


def test_what_a_dead_process_staged(store: ShimStore) -> None:
    """Is found by its name, and is neither a shim nor unused."""
    key = store.ensure(SHIM)
    (store.shims / "new-x").mkdir()
    (store.layers / "new-y").touch()
    assert sorted(path.name for path in store.abandoned()) == ["new-x", "new-y"]
    assert store.unused([key]) == []
    assert [path.name for path in store.unused([])] == [key]


def test_a_shim_that_contradicts_itself(store: ShimStore) -> None:
    """A device where there is a directory is refused as damaged content."""
    with pytest.raises(DataLoss, match="is a directory in the same layer"):
        store.ensure(Shim((directory(b""), directory(b"d")), (b"d",)))
    assert os.listdir(store.shims) == []


def test_outlines_are_kept(store: ShimStore) -> None:
    """By the layer's digest, with names of any bytes."""
    outline = Outline(
        source=Source.WALK,
        whiteouts=(NAME,),
        opaques=(b"",),
        hidden=(b"d/.wh.x",),
        directories=(directory(b"", 0o700, -5, a=b"\xff"),),
    )
    assert store.find_outline(LAYER) is None
    store.keep_outline(LAYER, outline)
    assert store.find_outline(LAYER) == outline
    assert os.listdir(store.layers) == [f"{LAYER.hex}.v1"]


def test_losses_are_kept(store: ShimStore) -> None:
    """None means that they are not known, an empty list that there are none."""
    assert store.find_losses(LAYER) is None
    for losses in ([], ["owners"]):
        store.keep_losses(LAYER, losses)
        assert store.find_losses(LAYER) == losses
    (store.layers / f"{LAYER.hex}.losses").write_bytes(b"{")
    assert store.find_losses(LAYER) is None
