"""Attributes of a path itself; "not there" is told apart from "not permitted to look"."""

import errno
import os
from pathlib import Path

import pytest

from cvmfsrepo import xattrs

ODD = os.fsdecode(b"user.\xff\xfe")


def test_absent_is_none(tmp_path: Path) -> None:
    """No attribute of that name, and a file system that knows none, is None."""
    assert xattrs.read(tmp_path, "user.none") is None
    assert xattrs.read("/proc/self/status", "user.none") is None
    assert xattrs.read_all(tmp_path) == {}


def test_a_missing_path_raises(tmp_path: Path) -> None:
    """A path that is not there is not a path without attributes."""
    with pytest.raises(FileNotFoundError):
        xattrs.read(tmp_path / "none", "user.x")
    with pytest.raises(FileNotFoundError):
        xattrs.read_all(tmp_path / "none")


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES, errno.EIO, errno.ENOTCONN, errno.ERANGE])
def test_other_errors_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Everything but "no such attribute" reaches the caller as it is."""

    def refuse(*_: object, **__: object) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("xattr.getxattr", refuse)
    with pytest.raises(OSError) as caught:
        xattrs.read(tmp_path, "trusted.overlay.opaque")
    assert caught.value.errno == number


def test_round_trip_with_odd_names(tmp_path: Path) -> None:
    """Values are bytes, names and paths that are not UTF-8 carry surrogates."""
    path = os.fsencode(tmp_path) + b"/\xff\n"
    with open(path, "xb"):
        pass
    values = {"user.empty": b"", "user.zero": b"a\0b\xff", ODD: b"odd"}
    xattrs.write_all(path, values)
    assert xattrs.read_all(path) == values
    assert xattrs.read(path, ODD) == b"odd"
    assert list(xattrs.read_all(path)) == sorted(values)


@pytest.mark.root
def test_links_are_not_followed(tmp_path: Path) -> None:
    """What a link points to is another file."""
    (tmp_path / "link").symlink_to("file")
    xattrs.write(tmp_path / "link", "trusted.own", b"1")
    (tmp_path / "file").touch()
    assert xattrs.read_all(tmp_path / "link") == {"trusted.own": b"1"}
    assert xattrs.read_all(tmp_path / "file") == {}


@pytest.mark.root
def test_overlay_s_own_marks_are_not_the_image_s(tmp_path: Path) -> None:
    """`read_all` leaves out what overlayfs keeps for itself; `read` finds it."""
    xattrs.write_all(tmp_path, {"trusted.overlay.opaque": b"y", "user.overlay.origin": b"", "trusted.overlaid": b"1"})
    assert xattrs.read_all(tmp_path) == {"trusted.overlaid": b"1"}
    assert xattrs.read(tmp_path, "trusted.overlay.opaque") == b"y"
