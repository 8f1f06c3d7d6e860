"""What stands around a layer, for each way of mounting."""

import stat

import pytest

from cvmfsrepo.outline import Outline, Source
from cvmfsrepo.tree import Entry
from podmanstore.surround import hide_above, problem_of, white_below
from podmanstore.values import Mount

RAW = Outline(
    Source.WALK,
    whiteouts=(b"d/gone",),
    opaques=(b"o",),
    hidden=(b".cvmfscatalog", b"d/.wh.gone", b"o/.wh..wh..opq"),
    directories=(
        Entry(b"", stat.S_IFDIR | 0o755, mtime=7),
        Entry(b"d", stat.S_IFDIR | 0o700, 3, 4, 5, implied=True),
        Entry(b"o", stat.S_IFDIR | 0o711, 3, 4, 6),
    ),
)
OVERLAY = Outline(
    Source.RECORD, devices=(b"d/gone",), opaques=(b"o",), hidden=(b".cvmfscatalog",),
    directories=(Entry(b"", stat.S_IFDIR | 0o755, mtime=9),),
)  # fmt: skip


def nothing(path: bytes) -> bool:
    return False


def everything(path: bytes) -> bool:
    return True


@pytest.mark.parametrize("mount", [Mount.KERNEL, Mount.BOTH])
def test_the_kernel_needs_devices_for_raw_markers(mount: Mount) -> None:
    """Each raw marker is hidden, in directories with the layer's own metadata; each deletion has a device below."""
    hide, white = hide_above(RAW, mount, nothing), white_below(RAW, mount)
    assert hide is not None
    assert white is not None
    assert hide.whiteouts == (b"d/.wh.gone", b"o/.wh..wh..opq")
    assert {entry.path: (stat.S_IMODE(entry.mode), entry.uid, entry.mtime) for entry in hide.directories} == {
        b"": (0o755, 0, 0),
        b"d": (0o700, 3, 5),
        b"o": (0o711, 3, 6),
    }
    assert white.whiteouts == (b"d/gone", b"o")


def test_fuse_overlayfs_reads_raw_markers_itself() -> None:
    """They stay visible to it; only catalog markers are hidden."""
    assert white_below(RAW, Mount.FUSE) is None
    assert hide_above(RAW, Mount.FUSE, nothing) is None
    hide = hide_above(RAW, Mount.FUSE, everything)
    assert hide is not None
    assert hide.whiteouts == (b".cvmfscatalog",)


@pytest.mark.parametrize("mount", list(Mount))
def test_overlay_notation_needs_opaque_directories_only(mount: Mount) -> None:
    """Devices are in the layer; the opaque mark may have been lost, so it is a device below."""
    assert hide_above(OVERLAY, mount, nothing) is None
    white = white_below(OVERLAY, mount)
    assert white is not None
    assert white.whiteouts == (b"o",)


def test_layers_with_nothing_but_a_catalog_share_a_shim() -> None:
    """Whatever time and mode their roots have."""
    one, other = (
        hide_above(Outline(Source.WALK, hidden=(b".cvmfscatalog",), directories=(root,)), Mount.BOTH, everything)
        for root in (Entry(b"", stat.S_IFDIR | 0o755, mtime=1), Entry(b"", stat.S_IFDIR | 0o700, 5, 5, 2))
    )
    assert one is not None
    assert other is not None
    assert one.key == other.key


def test_nested_catalogs_are_hidden_always() -> None:
    """The outline knows them from the layer itself; only the root's is a guess."""
    outline = Outline(Source.RECORD, hidden=(b".cvmfscatalog", b"usr/.cvmfscatalog"))
    hide = hide_above(outline, Mount.FUSE, nothing)
    assert hide is not None
    assert hide.whiteouts == (b"usr/.cvmfscatalog",)


@pytest.mark.parametrize("mount", list(Mount))
def test_what_no_store_shows_right_for_both(mount: Mount) -> None:
    """A raw opaque marker, or a name beside its own raw deletion: only a store for both mounts refuses them."""
    beside = Outline(Source.RECORD, whiteouts=(b"d/gone",), hidden=(b"d/.wh.gone",))
    assert ("opaque marker in '/o'" in problem_of(RAW, mount, nothing)) == (mount is Mount.BOTH)
    assert ("'/d/gone' beside" in problem_of(beside, mount, everything)) == (mount is Mount.BOTH)
    assert problem_of(beside, mount, nothing) == ""
    assert problem_of(OVERLAY, mount, everything) == ""
