"""Snapshot directories: staged, placed, measured and removed, whatever a crash or a container left in them."""

import contextlib
import os
from pathlib import Path

import pytest

from snapshotter import disk as module
from snapshotter.disk import Disk, Ownership, disk_usage, remove_tree
from snapshotter.metastore import Record, Remote
from snapshotter.snapshots import Info, Kind, Usage

OURS = Ownership(0o750, os.geteuid(), os.getegid())
LOCAL = Record(7, Info(Kind.COMMITTED, "n", "", 0, 0), Usage(), None, "")


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    (tmp_path / "snapshots").mkdir()
    return Disk(tmp_path)


def remote(number: int, layer: str, hide: str, white: str = "") -> Record:
    return Record(number, LOCAL.info, Usage(), Remote("r", layer, hide, white, None), "")


def names(disk: Disk) -> list[str]:
    return sorted(path.name for path in disk.snapshots.iterdir())


@pytest.mark.parametrize(("writable", "made"), [(True, ["fs", "work"]), (False, ["fs"])])
def test_a_local_snapshot_is_staged_and_placed(disk: Disk, writable: bool, made: list[str]) -> None:
    """Its directories are whole before they have a number."""
    with disk.staged_local(writable, OURS) as staged:
        (name,) = names(disk)
        assert name.startswith("new-")
        staged.place(3)
    assert names(disk) == ["3"]
    assert sorted(os.listdir(disk.directory(3))) == made
    assert os.stat(f"{disk.directory(3)}/fs").st_mode & 0o7777 == 0o750


def test_the_mode_does_not_depend_on_the_umask(disk: Disk) -> None:
    """The root of a container is as its image says."""
    previous = os.umask(0o077)
    try:
        with disk.staged_local(True, Ownership(0o1777, OURS.uid, OURS.gid)) as staged:
            staged.place(1)
    finally:
        os.umask(previous)
    assert os.stat(f"{disk.directory(1)}/fs").st_mode & 0o7777 == 0o1777


@pytest.mark.parametrize("placed", [False, True])
def test_a_failed_transaction(disk: Disk, placed: bool) -> None:
    """A staged directory is removed; one that was placed is an orphan, for its record was never committed."""
    with contextlib.suppress(LookupError), disk.staged_local(True, OURS) as staged:
        if placed:
            staged.place(4)
        raise LookupError
    assert names(disk) == (["4"] if placed else [])
    for path in disk.set_aside([]):
        remove_tree(path)
    assert names(disk) == []


@pytest.mark.parametrize("left", ["empty", "full", "links"])
def test_an_orphan_of_the_same_number(disk: Disk, tmp_path: Path, left: str) -> None:
    """A crash between the rename and the commit leaves one, and its number is given again: the new one replaces it."""
    orphan = disk.snapshots / "5"
    orphan.mkdir()
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "file").touch()
    if left == "full":
        (orphan / "fs" / "deep").mkdir(parents=True)
        (orphan / "fs" / "deep" / "old").touch()
    if left == "links":
        (orphan / "fs").symlink_to(tmp_path / "repository")
    with disk.staged_local(True, OURS) as staged:
        staged.place(5)
    assert names(disk) == ["5"]
    assert os.listdir(f"{disk.directory(5)}/fs") == []
    assert (tmp_path / "repository" / "file").exists()


def test_a_place_that_cannot_be_taken(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of the disk comes through; nothing is removed for it."""

    def refuse(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", refuse)
    with disk.staged_local(True, OURS) as staged, pytest.raises(OSError, match="No space"):
        staged.place(1)
    (staging,) = disk.abandoned()
    remove_tree(staging)
    assert names(disk) == []


def test_set_aside_takes_what_no_record_has(disk: Disk) -> None:
    """Numbers only; an orphan cannot be mistaken for the next snapshot that gets its number."""
    for name in ("1", "2", "30", "new-x", "lost+found"):
        (disk.snapshots / name).mkdir()
    aside = disk.set_aside({2})
    assert names(disk) == ["2", "lost+found", "new-x", *sorted(path.name for path in aside)]
    assert len(aside) == 2
    with disk.staged_local(True, OURS) as staged:
        staged.place(1)
    for path in aside:
        remove_tree(path)
    assert names(disk) == ["1", "2", "lost+found", "new-x"]
    assert [path.name for path in disk.abandoned()] == ["new-x"]


def test_removal_follows_no_link(disk: Disk, tmp_path: Path) -> None:
    """Neither to the repository's layer nor out of a container's own tree."""
    layer = tmp_path / "repository" / "layerfs"
    layer.mkdir(parents=True)
    (layer / "file").write_text("x")
    with disk.staged_remote(layer, Remote("r", "a" * 64, "b" * 64, "c" * 64, None)) as staged:
        staged.place(1)
    with disk.staged_local(True, OURS) as staged:
        staged.place(2)
    (disk.snapshots / "2" / "fs" / "link").symlink_to(layer)
    (disk.snapshots / "2" / "fs" / "root").symlink_to("/")
    disk.remove(1)
    disk.remove(2)
    disk.remove(2)
    assert names(disk) == []
    assert (layer / "file").read_text() == "x"


def test_removal_of_what_a_container_left(disk: Disk) -> None:
    """Directories without permissions, deep ones, devices and pipes, names of any bytes."""
    with disk.staged_local(True, OURS) as staged:
        staged.place(1)
    upper = Path(disk.directory(1), "fs")
    deep = upper
    for _ in range(300):
        deep = deep / "d"
        deep.mkdir()
    os.mkfifo(upper / "pipe")
    (upper / "closed").mkdir(0)
    Path(os.fsdecode(os.fsencode(upper) + b"/\xff\n")).touch()
    disk.remove(1)
    assert names(disk) == []


def test_lowers_of_a_chain(disk: Disk) -> None:
    """A repository's layer has its shims around it; a local snapshot is itself."""
    chain = [remote(9, "l", "h", "w"), LOCAL, remote(3, "m", "i")]
    found = [lower.removeprefix(f"{disk.snapshots}/") for lower in disk.lowers(chain)]
    assert found == ["9/h", "9/fs", "9/w", "7/fs", "3/h", "3/fs"]


def test_a_directory_stands_in_a_stack_once(disk: Disk) -> None:
    """Of a repeated layer or a shared shim the topmost is kept: overlayfs refuses one directory twice."""
    chain = [remote(9, "l", "h", "w"), LOCAL, remote(5, "m", "h", "w"), remote(3, "l", "other", "w")]
    found = [lower.removeprefix(f"{disk.snapshots}/") for lower in disk.lowers(chain)]
    assert found == ["9/h", "9/fs", "9/w", "7/fs", "5/fs", "3/h"]


def test_ownership_is_the_shims(disk: Disk, tmp_path: Path) -> None:
    """Of a snapshot on a repository's layer: known without the repository."""
    (tmp_path / "shims" / "h").mkdir(parents=True)
    (tmp_path / "shims" / "h").chmod(0o711)
    with disk.staged_remote(tmp_path / "not-there", Remote("r", "l", "h", "", None)) as staged:
        staged.place(3)
    assert disk.ownership([remote(3, "l", "h")]).mode == 0o711


def test_usage_counts_each_inode_once(tmp_path: Path) -> None:
    """Hard links, also across directories; symbolic links are not followed; sparse files take what they take."""
    (tmp_path / "fs" / "d").mkdir(parents=True)
    file = tmp_path / "fs" / "file"
    file.write_bytes(b"x" * 10_000)
    before = disk_usage(tmp_path / "fs")
    (tmp_path / "fs" / "d" / "link").hardlink_to(file)
    (tmp_path / "big").write_bytes(b"x" * 100_000)
    assert disk_usage(tmp_path / "fs") == before
    (tmp_path / "fs" / "symlink").symlink_to(tmp_path / "big")
    with open(tmp_path / "fs" / "sparse", "wb") as sparse:
        sparse.truncate(1 << 30)
    after = disk_usage(tmp_path / "fs")
    assert (before.inodes, after.inodes) == (3, 5)
    assert after.size - before.size <= 8192


def test_usage_while_a_container_removes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that goes as we count is passed over; those beside it still count."""
    for name in "abcd":
        (tmp_path / name).touch()
    (tmp_path / "dir").mkdir()
    list_entries = module._entries

    def entries_then_removal(directory: bytes) -> list[os.DirEntry[bytes]]:
        found = sorted(list_entries(directory), key=lambda entry: entry.name)
        for name in ("b", "dir"):
            path = tmp_path / name
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(module, "_entries", entries_then_removal)
    assert disk_usage(tmp_path).inodes == 4
