"""Which of our directories are mounted: real tables of the kernel, and ones that are easy to misread."""

import os
from pathlib import Path

import pytest

from snapshotter.mounted import mounted_numbers, numbers_in_use
from tests.mounting import mounted, needs_root

HERE, DEVICE = "/var/lib/ours/snapshots", os.makedev(8, 1)

A, B, C, D = range(70_000_001, 70_000_005)
"""Numbers that no engine beside these tests gives: what it views with relative lower directories counts as ours."""

OVERLAY = "35 30 0:50 / /run/x rw - overlay overlay rw,"


@pytest.mark.parametrize(
    ("line", "numbers"),
    [
        (f"lowerdir={HERE}/3/h:{HERE}/3/fs:{HERE}/2/fs,upperdir={HERE}/4/fs,workdir={HERE}/4/work", {2, 3, 4}),
        (f"lowerdir=3/h:3/fs:12/w,upperdir={HERE}/4/fs,workdir={HERE}/4/work", {3, 4, 12}),
        ("lowerdir=3/fs:2/fs", {2, 3}),
        ("lowerdir=3/fs:2/fs,upperdir=/var/lib/theirs/snapshots/4/fs,workdir=/var/lib/theirs/snapshots/4/work", set()),
        (f"lowerdir+={HERE}/3/fs,lowerdir+={HERE}/2/fs,index=off", {2, 3}),
        (f"lowerdir={HERE}/3/fs::{HERE}/2/fs", {2, 3}),
        ("lowerdir=/var/lib/theirs/snapshots/3/fs:/a/2/fs", set()),
        (f"lowerdir={HERE}/03/fs:{HERE}/new-x/fs:{HERE}/3/other:3/fsx", set()),
        ("lowerdir=/a\\\\,upperdir=5/fs:5/fs", {5}),
    ],
)
def test_overlays(line: str, numbers: set[int]) -> None:
    """Lower directories may be relative, and then count unless the upper one is elsewhere."""
    assert set(mounted_numbers(OVERLAY + line, HERE, DEVICE)) == numbers


@pytest.mark.parametrize(
    ("line", "numbers"),
    [
        (f"35 30 8:1 {HERE}/7/fs /run/x rw - ext4 /dev/sda1 rw", {7}),
        ("35 30 8:1 /ours/snapshots/7/fs /run/x rw - ext4 /dev/sda1 rw", {7}),
        (f"35 30 0:33 {HERE}/7/fs /run/x rw - btrfs /dev/sda2 rw", {7}),
        ("35 30 8:2 /var/lib/theirs/snapshots/7/fs /run/x rw - ext4 /dev/sda2 rw", set()),
        (f"35 30 8:1 {HERE} /run/x rw shared:1 - ext4 /dev/sda1 rw", set()),
        ("35 30 8:1 / / rw - ext4 /dev/sda1 rw", set()),
    ],
)
def test_bind_mounts(line: str, numbers: set[int]) -> None:
    """By the device or by the end of the path below its root."""
    assert set(mounted_numbers(line, HERE, DEVICE)) == numbers


@pytest.mark.root
def test_real_mounts(tmp_path: Path) -> None:
    """An overlay and a bind mount that this process has; when they are gone nothing is in use."""
    needs_root()
    snapshots = tmp_path / "a b" / "snapshots"
    for path in (f"{A}/fs", f"{B}/fs", f"{C}/fs", f"{C}/work", f"{D}/fs"):
        (snapshots / path).mkdir(parents=True)

    def found() -> set[int]:
        return numbers_in_use(snapshots) & {A, B, C, D}

    assert found() == set()
    options = [
        f"lowerdir={snapshots}/{B}/fs:{snapshots}/{A}/fs",
        f"upperdir={snapshots}/{C}/fs",
        f"workdir={snapshots}/{C}/work",
    ]
    with mounted("overlay", "overlay", tmp_path / "one", options):
        assert found() == {A, B, C}
        with mounted("bind", str(snapshots / f"{D}/fs"), tmp_path / "two", ["bind", "ro"]):
            assert found() == {A, B, C, D}
    assert found() == set()
