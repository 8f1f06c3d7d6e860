"""The finished images hold what the comparison of whole root file systems is for."""

import io
import tarfile

import pytest

from tests.images.debian import DEEP_LAYERS, debian_image, deep_image
from tests.images.ocilayout import read_layers
from tests.images.tarlayer import OPAQUE_NAME, WHITEOUT_PREFIX

pytestmark = [pytest.mark.root, pytest.mark.slow]


def members(tar: bytes) -> list[tarfile.TarInfo]:
    """Closed first, for not every tool closes its tars."""
    whole = io.BytesIO(tar + bytes(-len(tar) % 512 + 1024))
    with tarfile.open(fileobj=whole, encoding="utf-8", errors="surrogateescape") as opened:
        return opened.getmembers()


def test_debian_has_what_the_comparison_needs() -> None:
    """Five whole layers and more, with capabilities, setuid programs, hard links, devices, both kinds of marker."""
    layers = [members(tar) for tar in read_layers(debian_image())]
    assert len(layers) >= 5
    assert len(layers[0]) > 5000
    everything = [member for layer in layers for member in layer]
    assert [m.name for m in layers[0] if "SCHILY.xattr.security.capability" in m.pax_headers] == ["usr/bin/ping"]
    assert [m for m in everything if "SCHILY.xattr.user.note" in m.pax_headers]
    for found in (
        [m for m in everything if m.isreg() and m.mode & 0o4000],
        [m for m in everything if m.islnk()],
        [m for m in everything if m.ischr()],
        [m for m in everything if m.isblk()],
        [m for m in everything if m.isfifo()],
    ):
        assert found
    names = {member.name for layer in layers[1:] for member in layer}
    assert {f"usr/share/man/{OPAQUE_NAME}", f"etc/{WHITEOUT_PREFIX}motd", f"etc/{WHITEOUT_PREFIX}skel"} <= names
    assert f"etc/apt/{WHITEOUT_PREFIX}sources.list" in names


def test_debian_has_layers_of_both_tools() -> None:
    """The last three come from umoci, whose `insert` lists no parents and leaves its tars without an end."""
    tars = read_layers(debian_image())
    assert [tar.endswith(bytes(1024)) for tar in tars[-2:]] == [False, False]
    assert [member.name for member in members(tars[-1])] == [f"etc/{WHITEOUT_PREFIX}skel"]


def test_deep_image_has_a_hundred_layers() -> None:
    """More than a page of mount options holds when every path is written out."""
    assert len(set(deep_image().layers)) == DEEP_LAYERS
