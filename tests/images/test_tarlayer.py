"""The tars say what was described, to readers that are not ours."""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.images.nasty import ALL
from tests.images.stack import Stack
from tests.images.tarlayer import (
    MTIME_NS,
    Device,
    Dir,
    Entry,
    File,
    Hardlink,
    Opaque,
    Symlink,
    Whiteout,
    layer_tar,
    member_name,
)


def read(tar: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(tar), encoding="utf-8", errors="surrogateescape") as opened:
        return opened.getmembers()


def test_markers_are_written_beside_or_into_what_they_mark() -> None:
    """A whiteout stands beside its name, an opaque mark inside its directory, the root's in the root."""
    entries: list[Entry] = [Whiteout("a/b"), Whiteout("x"), Opaque("d/e"), Opaque(".")]
    assert [member.name for member in read(layer_tar(entries))] == [
        "a/.wh.b", ".wh.x", "d/e/.wh..wh..opq", ".wh..wh..opq",
    ]  # fmt: skip


@pytest.mark.parametrize("stack", [stack for stack in ALL.values() if stack.closed], ids=lambda stack: stack.name)
def test_members_come_back_as_described(stack: Stack) -> None:
    """Python's own reader finds each name, type, mode, owner, target and attribute, in the order of the description."""
    for entries, tar in zip(stack.layers, stack.tars(), strict=True):
        for entry, member in zip(entries, read(tar), strict=True):
            assert member.name == member_name(entry).rstrip("/")
            assert (member.mode, member.uid, member.gid) == (entry.mode, entry.uid, entry.gid)
            if isinstance(entry, Symlink | Hardlink):
                assert member.linkname == entry.target
            for name, value in entry.xattrs.items():
                assert member.pax_headers[f"SCHILY.xattr.{name}"].encode("utf-8", "surrogateescape") == value


def test_times_keep_their_nanoseconds() -> None:
    """A time that is no whole second goes into a pax record, digit for digit, also before 1970."""
    exact, before = read(layer_tar([File("a", mtime_ns=MTIME_NS + 123_456_789), File("b", mtime_ns=-1)]))
    assert exact.pax_headers["mtime"] == "1600000000.123456789"
    assert before.pax_headers["mtime"] == "-0.000000001"
    assert not read(layer_tar([File("a")]))[0].pax_headers


def test_equal_descriptions_give_equal_bytes() -> None:
    """Nothing of the clock, of the process or of the order of attributes is in a tar."""
    one = layer_tar([File("a", b"x", xattrs={"user.b": b"1", "user.a": b"2"})])
    assert one == layer_tar([File("a", b"x", xattrs={"user.a": b"2", "user.b": b"1"})])
    assert len(one) % 512 == 0


def test_an_open_tar_stops_at_its_last_byte() -> None:
    """Without an end there is no padding either."""
    assert layer_tar([File("a", b"x" * 10)], closed=False) == layer_tar([File("a", b"x" * 10)])[: 512 + 10]


def test_the_system_tar_reads_what_we_write(tmp_path: Path) -> None:
    """GNU tar lists the members of a layer with long, odd and plain names alike."""
    tar = tmp_path / "layer.tar"
    tar.write_bytes(
        layer_tar([Dir("d"), File("d/" + "n" * 200), File("ünï"), Device("null", 1, 3), Symlink("s", "t" * 300)])
    )
    listed = subprocess.run(["tar", "-tf", tar, "--quoting-style=literal"], capture_output=True, check=True)
    assert listed.stdout.decode().split() == ["d/", "d/" + "n" * 200, "ünï", "null", "s"]
