"""Filling a directory: what is shared with the layers, what is not, and what a hostile disk cannot do."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from cvmfsrepo import xattrs
from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import InvalidArgument, ResourceExhausted
from publisher.flat import write
from publisher.flat.content import copy_content
from publisher.flat.write import Sharing
from tests.images.ocilayout import Image
from tests.images.tarlayer import Dir, File, Hardlink, Symlink, layer_tar
from tests.publisher.flat.trees import Shelf, differences

pytestmark = pytest.mark.root

LAYER = [
    *(Dir("d"), File("d/plain", b"p"), File("d/owned", b"o", uid=5, mode=0o4711, xattrs={"user.a": b"1"})),
    *(File("d/first", b"f"), Hardlink("d/second", "d/first"), Symlink("d/link", "plain")),
]


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def layerfs(shelf: Shelf, image: Image) -> Path:
    return shelf.layout.layerfs(Digest.parse(image.layers[0]))


def is_shared(shelf: Shelf, image: Image, flat: Path, path: str) -> bool:
    return (layerfs(shelf, image) / path).stat().st_ino == (flat / path).stat().st_ino


def test_a_copy_leaves_the_layer_as_a_pull_would_show_it(shelf: Shelf) -> None:
    """Files of the layer keep the link count that its tar gives them, and so do those of the tree."""
    image = shelf.add([layer_tar(LAYER)])
    flat = shelf.write(shelf.tree(image), shelf.directory / "flat")
    for tree in (layerfs(shelf, image), flat):
        assert [(tree / "d" / name).stat().st_nlink for name in ("plain", "owned", "first", "second")] == [1, 1, 2, 2]


def test_links_are_made_where_nothing_differs(shelf: Shelf) -> None:
    """A file whose mode, owner, time, size or attributes on the disk are not its entry's is copied."""
    image = shelf.add([layer_tar([*LAYER, *(File(f"d/{n}", b"x") for n in ("mode", "owner", "time", "attribute"))])])
    fs = layerfs(shelf, image)
    os.chmod(fs / "d/mode", 0o600)
    os.chown(fs / "d/owner", 9, 9)
    os.utime(fs / "d/time", (1, 1))
    xattrs.write(fs / "d/attribute", "user.added", b"1")
    wanted = shelf.tree(image)
    flat = shelf.write(wanted, shelf.directory / "linked", sharing=Sharing.LINK)
    names = ("plain", "owned", "first", "second", "mode", "owner", "time", "attribute")
    shared = [name for name in names if is_shared(shelf, image, flat, f"d/{name}")]
    assert shared == ["plain", "owned", "first", "second"]
    assert differences(shelf.write(wanted, shelf.directory / "copied"), flat) == []


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EMLINK, errno.EPERM])
def test_where_no_link_can_be_made_the_file_is_copied(
    shelf: Shelf, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between file systems, and beyond the most names that one allows; then the names are files of their own."""
    image = shelf.add([layer_tar(LAYER)])

    def refused(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refused)
    flat = shelf.write(shelf.tree(image), shelf.directory / "flat", sharing=Sharing.LINK)
    assert not is_shared(shelf, image, flat, "d/plain")
    assert (flat / "d/second").read_bytes() == b"f"
    assert (flat / "d/owned").stat().st_mode & 0o7777 == 0o4711


def test_nothing_is_read_through_a_link_of_the_layer(shelf: Shelf) -> None:
    """A directory of the layer that somebody replaced by a link leads nowhere."""
    image = shelf.add([layer_tar(LAYER)])
    wanted, fs = shelf.tree(image), layerfs(shelf, image)
    outside = shelf.directory / "outside"
    (fs / "d").rename(outside)
    (fs / "d").symlink_to(outside)
    with pytest.raises(InvalidArgument, match="leads through the symlink"):
        shelf.write(wanted, shelf.directory / "flat")


def test_a_full_disk_is_told(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the entry that does not fit."""
    wanted = shelf.tree(shelf.add([layer_tar(LAYER)]))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(write, "copy_content", full)
    with pytest.raises(ResourceExhausted, match="d/first"):
        shelf.write(wanted, shelf.directory / "flat")


@pytest.mark.parametrize("ways", [(), ("ioctl",), ("ioctl", "copy_file_range")])
def test_content_is_copied_in_each_way(ways: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By sharing extents, in the kernel and by hand; with its holes, and nothing of an empty file."""
    import fcntl

    def cannot(*_: object, **__: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    for way in ways:
        monkeypatch.setattr(fcntl if way == "ioctl" else os, way, cannot)
    source, target = tmp_path / "source", tmp_path / "target"
    for parts, size in (([(0, b"start"), (5 << 20, b"middle" * 1000)], 9 << 20), ([], 0), ([(0, b"x" * 3000)], 3000)):
        with source.open("wb") as file:
            file.truncate(size)
            for offset, part in parts:
                file.seek(offset)
                file.write(part)
        with source.open("rb") as one, target.open("wb") as other:
            copy_content(one.fileno(), other.fileno(), size)
        assert target.read_bytes() == source.read_bytes()
        assert target.stat().st_blocks <= source.stat().st_blocks + 16
