"""A layer on disk, and its record, are what its tar says: every kind of entry, each attribute."""

import io
import os
import stat
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from cvmfsrepo import compare
from cvmfsrepo.tree import Entry as Recorded
from cvmfsrepo.tree import Record, by_path
from tests.images.nasty import ALL
from tests.images.oracle import apply
from tests.images.tarlayer import (
    MTIME_NS,
    Device,
    Dir,
    Entry,
    Fifo,
    File,
    Hardlink,
    Symlink,
    Whiteout,
)
from tests.images.treefacts import differences, read_tree
from tests.publisher.publishing import publish_layer

pytestmark = pytest.mark.root

ODD = MTIME_NS + 123_456_789
EVERY_KIND = (
    Dir("d", mode=0o1777, uid=1, gid=2, mtime_ns=ODD, xattrs={"user.dir": b"\0\xff"}),
    File("d/su", b"#!", mode=0o4755, uid=3, gid=4, mtime_ns=ODD + 1, xattrs={"user.a": b"", "user.b": b"x=\n\0\xfe"}),
    Symlink("d/link", "\udcff/to", uid=5, gid=6, mtime_ns=ODD + 2, xattrs={"trusted.link": b"l"}),
    Fifo("d/pipe", mode=0o620, uid=7, gid=8, mtime_ns=ODD + 3),
    Device("d/null", 1, 3, mode=0o666, uid=9, gid=10, mtime_ns=ODD + 4),
    Device("d/disk", 300, 70000, block=True, mode=0o4660, uid=11, gid=12, mtime_ns=ODD + 5),
    Hardlink("d/again", "d/su", mode=0o4755, uid=3, gid=4, mtime_ns=ODD + 1),
    File("\udcffname" + "n" * 240, b"content" * 1000, mode=0, uid=4_000_000_000, gid=2_097_152, mtime_ns=0),
    File("/".join(["deep" * 30] * 20), b"far", mode=0o600, mtime_ns=5_000_000_000 * 10**9),
)


def expected(entries: Sequence[Entry]) -> dict[bytes, Recorded]:
    """The tree of these descriptions, written down without any tar; listed directories only."""
    kinds = {File: stat.S_IFREG, Dir: stat.S_IFDIR, Symlink: stat.S_IFLNK, Fifo: stat.S_IFIFO}
    tree: dict[bytes, Recorded] = {}
    for entry in entries:
        kind = kinds.get(type(entry), 0)
        if isinstance(entry, Device):
            kind = stat.S_IFBLK if entry.block else stat.S_IFCHR
        path = os.fsencode(entry.path)
        if isinstance(entry, Hardlink):
            tree[path] = tree[os.fsencode(entry.target)]
            continue
        tree[path] = Recorded(
            path, kind | entry.mode, entry.uid, entry.gid, entry.mtime_ns,
            size=len(entry.content) if isinstance(entry, File) else 0,
            target=os.fsencode(entry.target) if isinstance(entry, Symlink) else b"",
            device=(entry.major, entry.minor) if isinstance(entry, Device) else (0, 0),
            xattrs=dict(sorted(entry.xattrs.items())),
        )  # fmt: skip
    return tree


def assert_recorded(layerfs: Path, record: Record) -> None:
    """The record and the disk say the same."""
    found = list(compare.differences(by_path(record.entries), compare.scan(layerfs)))
    assert not found, "\n".join(map(str, found))


def test_every_kind_of_entry(tmp_path: Path) -> None:
    """Types, modes, owners, times, targets, numbers, sizes and attributes, names of any bytes and length."""
    layerfs, record = publish_layer(tmp_path, EVERY_KIND)
    found = compare.scan(layerfs)
    links = {b"d/su", b"d/again"}
    for path, entry in expected(EVERY_KIND).items():
        twin = found[path]
        group = 1 if path in links else 0
        assert list(compare.differences({path: entry}, {path: twin})) == []
        assert twin.group == group, path
    assert os.path.samefile(layerfs / "d/su", layerfs / "d/again")
    assert (layerfs / "d/su").read_bytes() == b"#!"
    assert_recorded(layerfs, record)


def test_unlisted_directories_are_said_to_be_implied(tmp_path: Path) -> None:
    """What the tar needs and does not list is 0755 and root's, and so is the root; the record marks them."""
    layerfs, record = publish_layer(tmp_path, [File("a/b/c"), Dir("a", mode=0o700)])
    implied = {entry.path: entry for entry in record.entries if entry.implied}
    assert set(implied) == {b"", b"a/b"}
    assert {(entry.mode, entry.uid, entry.gid) for entry in implied.values()} == {(stat.S_IFDIR | 0o755, 0, 0)}
    assert stat.S_IMODE(os.stat(layerfs).st_mode) == 0o755
    assert stat.S_IMODE(os.stat(layerfs / "a").st_mode) == 0o700


def test_groups_of_unlisted_directories(tmp_path: Path) -> None:
    """The tar's order decides, for what only a marker needs too: a setgid directory gives its group from its listing
    on, and to one level only."""
    layerfs, record = publish_layer(
        tmp_path,
        [File("g/early/x"), Whiteout("g/marked/x"), Dir("g", mode=0o2775, gid=50), File("g/late/deep/x"),
         Whiteout("g/unmarked/x"), Whiteout("g/again"), File("g/again/x")],
    )  # fmt: skip
    groups = {entry.path: entry.gid for entry in record.entries if entry.implied and entry.path}
    assert groups == {
        b"g/early": 0, b"g/marked": 0, b"g/late": 50, b"g/late/deep": 0, b"g/unmarked": 50, b"g/again": 50
    }  # fmt: skip
    assert {path: os.stat(layerfs / os.fsdecode(path)).st_gid for path in groups} == groups


def test_a_root_that_is_setgid_gives_its_group_to_nothing(tmp_path: Path) -> None:
    """A pull ignores the root's own entry, so what is made in the root is root's."""
    layerfs, record = publish_layer(tmp_path, [Dir(".", mode=0o2755, gid=50), File("new/x"), Whiteout("marked/x")])
    implied = {entry.path: entry.gid for entry in record.entries if entry.implied}
    assert implied == {b"new": 0, b"marked": 0}
    assert os.stat(layerfs / "new").st_gid == 0


def test_a_listed_root_is_an_entry(tmp_path: Path) -> None:
    """`./` gives the layer's root its mode, owner and time."""
    layerfs, record = publish_layer(tmp_path, [Dir(".", mode=0o750, uid=5, mtime_ns=ODD), File("x")])
    root = record.entries[0]
    assert (root.path, root.implied, root.uid, root.mtime) == (b"", False, 5, ODD)
    assert_recorded(layerfs, record)


def test_later_members_replace_earlier_ones(tmp_path: Path) -> None:
    """As containerd does: a directory over a directory merges and takes the new metadata; anything else replaces."""
    entries = [
        Dir("d", mode=0o700, xattrs={"user.old": b"o"}), File("d/kept"), Dir("d", uid=4, xattrs={"user.new": b"n"}),
        Dir("gone"), File("gone/x"), Dir("gone/y"), File("gone", b"file"),
        File("f"), Dir("f"), File("f/inside"), Symlink("s", "d"), File("s", b"no link"), File("twice"),
        File("twice", b"second", mode=0o600), File("a", b"1"), Hardlink("b", "a"), File("a", b"2"),
    ]  # fmt: skip
    layerfs, record = publish_layer(tmp_path, entries)
    names = {entry.path for entry in record.entries}
    assert names == {b"", b"d", b"d/kept", b"gone", b"f", b"f/inside", b"s", b"twice", b"a", b"b"}
    assert {(layerfs / name).read_bytes() for name in ("gone", "s", "twice")} == {b"file", b"no link", b"second"}
    assert ((layerfs / "a").read_bytes(), (layerfs / "b").read_bytes()) == (b"2", b"1")
    assert by_path(record.entries)[b"d"].xattrs == {"user.new": b"n", "user.old": b"o"}
    assert_recorded(layerfs, record)


def test_a_hard_link_with_metadata_of_its_own_changes_its_file(tmp_path: Path) -> None:
    """The last member of a file wins, whichever name it has."""
    layerfs, record = publish_layer(tmp_path, [File("a", b"x", uid=1), Hardlink("b", "a", uid=7, mode=0o4711)])
    assert {(entry.uid, entry.group) for entry in record.entries if entry.path} == {(7, 1)}
    assert stat.S_IMODE(os.stat(layerfs / "a").st_mode) == 0o4711
    assert_recorded(layerfs, record)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_formats_of_other_tools(tmp_path: Path, form: int) -> None:
    """GNU's long names and numbers, pax by another writer, plain ustar with a prefix."""
    name, out = "long" * 20 + "/" + "name" * 20, io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        info = tarfile.TarInfo(name)
        info.size, info.uid, info.mtime = 5, 2_000_000, 1_600_000_000
        tar.addfile(info, io.BytesIO(b"bytes"))
        if form != tarfile.USTAR_FORMAT:
            link = tarfile.TarInfo("link")
            link.type, link.linkname = tarfile.SYMTYPE, "t/" * 200
            tar.addfile(link)
    layerfs, record = publish_layer(tmp_path, out.getvalue())
    assert (layerfs / name).read_bytes() == b"bytes"
    assert os.stat(layerfs / name).st_uid == 2_000_000
    assert form == tarfile.USTAR_FORMAT or os.readlink(layerfs / "link") == "t/" * 200
    assert_recorded(layerfs, record)


def test_global_headers_are_passed_over(tmp_path: Path) -> None:
    """As containerd does: `git archive` writes one, and nothing in it describes a member."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"uid": "77", "mtime": "5"}) as tar:
        tar.addfile(tarfile.TarInfo("x"))
    layerfs, _ = publish_layer(tmp_path, out.getvalue())
    assert (os.stat(layerfs / "x").st_uid, os.stat(layerfs / "x").st_mtime) == (0, 0)


def sparse_tar() -> bytes:
    """GNU's sparse format 1.0 by hand: 1 MiB, with data at 4,096 and at 1,000,000."""
    table = b"2\n4096\n5\n1000000\n3\n".ljust(512, b"\0")
    body = table + b"firstend"
    fields = (b"major=1", b"minor=0", b"name=thin", b"realsize=1048576")
    records = b"".join(b"%d GNU.sparse.%s\n" % (len(field) + 15, field) for field in fields)
    out = io.BytesIO()
    for name, kind, content in (("pax", tarfile.XHDTYPE, records), ("GNUSparseFile.0/thin", tarfile.REGTYPE, body)):
        info = tarfile.TarInfo(name)
        info.type, info.size = kind, len(content)
        out.write(info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512))
    return out.getvalue() + bytes(1024)


def test_sparse_files_keep_their_holes(tmp_path: Path) -> None:
    """The content is the expanded one, and the holes take no space."""
    layerfs, record = publish_layer(tmp_path, sparse_tar())
    content = (layerfs / "thin").read_bytes()
    assert (len(content), content[4096:4101], content[1_000_000:1_000_003]) == (1 << 20, b"first", b"end")
    assert content.count(0) == (1 << 20) - 8
    assert os.stat(layerfs / "thin").st_blocks * 512 < 100_000
    assert by_path(record.entries)[b"thin"].size == 1 << 20


def test_times_that_no_kernel_holds_are_1970(tmp_path: Path) -> None:
    """As a pull has it: before 1970, or after the year 2262."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for time in ("-0.5", "99999999999", "9999999999999999999.5"):
            info = tarfile.TarInfo(time)
            info.pax_headers = {"mtime": time}
            tar.addfile(info)
    layerfs, record = publish_layer(tmp_path, out.getvalue())
    assert {entry.mtime for entry in record.entries} == {0}
    assert_recorded(layerfs, record)


@pytest.mark.parametrize("name", sorted(ALL))
def test_each_nasty_layer_by_itself(tmp_path: Path, name: str) -> None:
    """Every layer of every nasty image, published alone and compared with what a plain unpacking makes of it."""
    for number, tar in enumerate(dict.fromkeys(ALL[name].tars())):
        if number >= 12:
            break  # of the hundred layers: the others are alike
        work = tmp_path / str(number)
        work.mkdir()
        undated = apply([tar], work / "oracle")
        layerfs, record = publish_layer(work, tar)
        markers = {os.fsdecode(path) for path in record.head.whiteouts} - {os.fsdecode(e.path) for e in record.entries}
        markers.add(".")  # a pull passes over its entry; the tests above say what we do
        found = {path: facts for path, facts in read_tree(layerfs, undated).items() if path not in markers}
        wanted = {path: facts for path, facts in read_tree(work / "oracle", undated).items() if path not in markers}
        assert differences(wanted, found) == []
