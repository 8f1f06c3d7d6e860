"""Mounts as data, and the one place that escapes paths."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshotter.kernel import in_user_namespace, mount_options
from snapshotter.mounts import MountOptions, active_mounts, escape, view_mounts
from snapshotter.snapshots import Mount
from tests import mounting

PLAIN = MountOptions()
FIXED = MountOptions(("index=off", "userxattr"))


def test_active_mounts() -> None:
    """On nothing a bind; on one lower or more an overlay, its options in the order of containerd's."""
    assert active_mounts([], "/s/1", FIXED) == (Mount("bind", "/s/1/fs", ("rw", "rbind")),)
    for lowers in (["/a"], ["/a", "/b"]):
        expected = (*FIXED.fixed, "workdir=/s/1/work", "upperdir=/s/1/fs", f"lowerdir={':'.join(lowers)}")
        assert active_mounts(lowers, "/s/1", FIXED) == (Mount("overlay", "overlay", expected),)


def test_view_mounts() -> None:
    """Overlayfs takes no single lower without an upper: that one is bound."""
    assert view_mounts([], "/s/1", FIXED) == (Mount("bind", "/s/1/fs", ("ro", "rbind")),)
    assert view_mounts(["/a"], "/s/1", FIXED) == (Mount("bind", "/a", ("ro", "rbind")),)
    expected = Mount("overlay", "overlay", (*FIXED.fixed, "lowerdir=/a:/b"))
    assert view_mounts(["/a", "/b"], "/s/1", FIXED) == (expected,)


def test_a_bound_path_is_not_escaped() -> None:
    """A source is no option."""
    assert view_mounts(["/a:b"], "/s", PLAIN)[0].source == "/a:b"


@given(st.lists(st.text(st.sampled_from("/a:,\\ ="), min_size=1), min_size=2, max_size=4))
def test_escaped_paths_are_told_apart_again(paths: list[str]) -> None:
    """Split as the kernel splits, at separators that no backslash stands before, every path comes back."""
    options = ",".join(view_mounts(paths, "/s", PLAIN)[0].options)
    (text,) = re.findall(r"(?:\\.|[^\\,])+", options)
    parts = re.findall(r"(?:\\.|[^\\:])+", text.removeprefix("lowerdir="))
    assert [re.sub(r"\\(.)", r"\1", part) for part in parts] == paths


def test_escape_leaves_ordinary_paths_alone() -> None:
    """Nearly all of them: containerd shortens lowers by their common prefix."""
    assert escape("/var/lib/x/snapshots/1/fs = a") == "/var/lib/x/snapshots/1/fs = a"
    assert escape("/a:b,c\\d") == "/a\\:b\\,c\\\\d"


@pytest.mark.root
@pytest.mark.parametrize("name", ["plain", "a:b", "a,b", "a\\b", "a\\:b", "a\\,b", ":", ",", "a b=c", "a\\\\:,b\\"])
def test_overlayfs_finds_escaped_paths(tmp_path: Path, name: str) -> None:
    """Really mounted: lowers, upper and work directory below a directory with each of the characters."""
    base = tmp_path / name
    lowers = [str(base / lower) for lower in ("one", "two")]
    for lower in lowers:
        Path(lower).mkdir(parents=True)
        (Path(lower) / Path(lower).name).touch()
    for made in ("fs", "work"):
        (base / "s" / made).mkdir(parents=True)
    (active,) = active_mounts(lowers, str(base / "s"), PLAIN)
    with mounting.mounted(active.type, active.source, tmp_path / "mnt", active.options) as tree:
        (tree / "new").touch()
        assert {path.name for path in tree.iterdir()} == {"one", "two", "new"}
    assert (base / "s" / "fs" / "new").exists()
    (view,) = view_mounts(lowers, str(base / "s"), PLAIN)
    with mounting.mounted(view.type, view.source, tmp_path / "mnt", view.options) as tree:
        assert {path.name for path in tree.iterdir()} == {"one", "two"}


def system(root: Path, index: bool, uid_map: str | None) -> Path:
    """A tree as the kernel shows it below /sys and /proc."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "sys/module/overlay/parameters").mkdir(parents=True)
    if index:
        (root / "sys/module/overlay/parameters/index").write_text("N\n")
    if uid_map is not None:
        (root / "proc/self/uid_map").write_text(uid_map)
    return root


WHOLE = "         0          0 4294967295\n"


@pytest.mark.parametrize(
    ("index", "uid_map", "expected"),
    [
        (True, WHOLE, ("index=off",)),
        (False, WHOLE, ()),
        (False, None, ()),
        (True, "         0       1000          1\n", ("index=off", "userxattr")),
        (True, "0 1000 1\n1 100000 65536\n", ("index=off", "userxattr")),
        (False, "0 0 65536\n", ("userxattr",)),
        (True, "", ("index=off", "userxattr")),
    ],
)
def test_options_are_what_the_kernel_wants(
    tmp_path: Path, index: bool, uid_map: str | None, expected: tuple[str, ...]
) -> None:
    """`index=off` where overlayfs knows it, `userxattr` in a user namespace; the configured ones follow."""
    root = system(tmp_path, index, uid_map)
    assert mount_options(system=root).fixed == expected
    assert mount_options(("volatile",), root).fixed == (*expected, "volatile")
    assert in_user_namespace(root) is ("userxattr" in expected)
