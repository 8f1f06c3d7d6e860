"""Both notations of a deletion, and what a set of raw markers means."""

import posixpath
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmfsrepo.whiteouts import Markers, ancestors, is_oci_marker, is_overlay_whiteout, oci_whiteout_target

names = st.binary(min_size=1, max_size=4).filter(lambda name: b"/" not in name and name not in (b".", b".."))


@pytest.mark.parametrize(
    ("name", "target"),
    [
        (b".wh.a", b"a"),
        (b".wh.\xff\xfe", b"\xff\xfe"),
        (b".wh..hidden", b".hidden"),
        (b".wh....", b"..."),
        (b".wh.wh.a", b"wh.a"),
        (b".wh..wh..opq", None),
        (b".wh..wh.plnk", None),
        (b".wh..wh.aufs", None),
        (b".wh.", None),
        (b".wh..", None),
        (b".wh...", None),
        (b".wh", None),
        (b"a.wh.b", None),
        (b".WH.a", None),
    ],
)
def test_target_of_a_marker(name: bytes, target: bytes | None) -> None:
    """`.wh.NAME` deletes NAME; reserved names and those that mean the directory itself or its parent delete nothing."""
    assert oci_whiteout_target(name) == target
    assert is_oci_marker(name) == name.startswith(b".wh.")


def test_markers_of_raw_names() -> None:
    """Whiteouts and opaque directories, sorted, each once; other markers mean nothing."""
    paths = [b"b/.wh.x", b".wh.a", b"b/.wh..wh..opq", b".wh..wh..opq", b"b/.wh.x", b"c/.wh..", b"c/.wh..wh.plnk", b"d"]
    assert Markers.of_oci_names(paths) == Markers((b"a", b"b/x"), (b"", b"b"))


@given(st.lists(names, min_size=1, max_size=4))
def test_a_whiteout_names_its_neighbour(parts: list[bytes]) -> None:
    """The marker beside any name stands for exactly that path, unless the name is a reserved one."""
    marker = posixpath.join(*parts[:-1], b".wh." + parts[-1])
    expected = () if parts[-1].startswith(b".wh.") else (b"/".join(parts),)
    assert Markers.of_oci_names([marker]).whiteouts == expected


def test_overlay_whiteout_is_a_character_device_of_zero() -> None:
    """No other type and no other number is one."""
    assert is_overlay_whiteout(stat.S_IFCHR, 0)
    assert not is_overlay_whiteout(stat.S_IFCHR | 0o666, 0x103)
    assert not is_overlay_whiteout(stat.S_IFBLK, 0)
    assert not is_overlay_whiteout(stat.S_IFREG, 0)


@pytest.mark.parametrize(
    ("path", "above"), [(b"", []), (b"a", [b""]), (b"a/b", [b"", b"a"]), (b"a/b/c", [b"", b"a", b"a/b"])]
)
def test_ancestors(path: bytes, above: list[bytes]) -> None:
    """The directories above, the root first, without the path itself."""
    assert ancestors(path) == above
