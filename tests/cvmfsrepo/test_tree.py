"""The tree record: what is written is read again, and nothing else is read at all."""

import posixpath
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cvmfsrepo import tree as record_format
from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss, InvalidArgument
from cvmfsrepo.tree import Entry, Notation, Record, decode, decode_head, encode, make_record
from cvmfsrepo.whiteouts import Markers

FORMAT, FRAME_LIMIT = record_format.FORMAT, record_format.FRAME_LIMIT
LAYER, DIFF_ID = Digest("a" * 64), Digest("b" * 64)
DIRECTORY, FILE = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644
NO_MARKERS = Markers()

names = st.binary(min_size=1, max_size=6).filter(lambda name: not {*b"/\0"} & {*name} and name not in (b".", b".."))
paths = st.lists(names, min_size=1, max_size=3).map(b"/".join)
xattr_names = st.sampled_from(["user.x", "security.capability", "user.ü"])
entries = st.builds(
    Entry,
    paths,
    st.sampled_from([DIRECTORY, FILE, stat.S_IFLNK | 0o777, stat.S_IFCHR | 0o666, stat.S_IFDIR | 0o1777]),
    st.integers(0, 2**32 - 2),
    st.integers(0, 2**32 - 2),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**60),
    st.binary(max_size=4),
    st.tuples(st.integers(0, 4095), st.integers(0, 2**20)),
    st.dictionaries(xattr_names, st.binary(max_size=4)),
    st.integers(0, 5),
    st.booleans(),
)
trees = st.lists(entries, max_size=8, unique_by=lambda entry: entry.path)


def record(*entries: Entry, markers: Markers = NO_MARKERS, extras: tuple[bytes, ...] = ()) -> Record:
    return make_record(LAYER, DIFF_ID, Notation.OCI, entries, markers, extras)


def frames(head: object, entries: object = ()) -> bytes:
    return b"".join(zstandard.compress(msgspec.msgpack.encode(part)) for part in (head, entries))


def hostile(**fields: object) -> bytes:
    """A record whose head has other fields than it should."""
    head = {"format": FORMAT, "version": 1, "layer": LAYER.hex, "diff_id": DIFF_ID.hex, "notation": "oci"}
    return frames({**head, **fields})


@given(trees, st.lists(paths), st.lists(paths), st.lists(paths))
def test_round_trip(tree: list[Entry], whiteouts: list[bytes], opaques: list[bytes], extras: list[bytes]) -> None:
    """Every field of every entry comes back, names that are not UTF-8 too; the bytes are the same again, and the head
    can be read alone."""
    written = record(*tree, markers=Markers(tuple(whiteouts), tuple(opaques)), extras=tuple(extras))
    content = encode(written)
    assert decode(content) == written
    assert encode(decode(content)) == content
    assert decode_head(content) == written.head
    assert written.head.entries == len(tree)
    assert written.entries == tuple(sorted(tree, key=lambda entry: entry.path))


def test_order_of_attributes_does_not_matter() -> None:
    """Equal records are equal bytes, in whichever order somebody read the attributes."""
    one, two = {"user.a": b"1", "user.b": b"2"}, {"user.b": b"2", "user.a": b"1"}
    assert encode(record(Entry(b"f", FILE, xattrs=one))) == encode(record(Entry(b"f", FILE, xattrs=two)))


def test_attribute_names_that_are_not_utf_8_are_refused() -> None:
    """The kernel takes any bytes for the name of an attribute, a record only text: no record is made of it."""
    with pytest.raises(InvalidArgument, match="whose name is not UTF-8"):
        record(Entry(b"f", FILE, xattrs={"user.\udcff": b""}))


def test_head_has_every_directory_that_a_shim_needs() -> None:
    """Those above markers, extras and implied directories, these themselves, and the root; no other."""
    tree = [Entry(path, DIRECTORY) for path in (b"", b"w", b"w/w", b"o", b"o/o", b"x", b"i", b"plain", b"i/below")]
    tree += [Entry(b"i/mplied", DIRECTORY, implied=True), Entry(b"x/own", FILE)]
    head = record(*tree, markers=Markers((b"w/w/gone",), (b"o/o",)), extras=(b"x/.cvmfscatalog",)).head
    assert {entry.path for entry in head.directories} == {b"", b"w", b"w/w", b"o", b"o/o", b"x", b"i", b"i/mplied"}
    assert head.markers == Markers((b"w/w/gone",), (b"o/o",))


def test_own_catalogs_and_size() -> None:
    """Files of the image named like a catalog marker are noted; the size is that of all files."""
    own = [Entry(b".cvmfscatalog", FILE, size=3), Entry(b"d/.cvmfscatalog", FILE, size=4)]
    head = record(*own, Entry(b"d", DIRECTORY)).head
    assert head.own_catalogs == (b".cvmfscatalog", b"d/.cvmfscatalog")
    assert head.size == 7


def test_witnesses() -> None:
    """One entry for each thing that a publication may lose; implied ones prove nothing."""
    tree = [
        Entry(b"a", FILE, uid=1, implied=True), Entry(b"b", FILE), Entry(b"c", FILE, uid=5), Entry(b"d", FILE, gid=5),
        Entry(b"e", FILE, xattrs={"user.x": b""}), Entry(b"f", FILE, group=1), Entry(b"g", FILE, group=1),
    ]  # fmt: skip
    assert [entry.path for entry in record(*tree).head.witnesses] == [b"b", b"c", b"e", b"f"]


def test_head_alone_from_the_first_frame() -> None:
    """A node reads the beginning; what stands behind the first frame may be missing or be rubbish."""
    content = encode(record(Entry(b"", DIRECTORY), Entry(b"f", FILE)))
    second = content.index(b"\x28\xb5\x2f\xfd", 1)
    for rest in (b"", b"rubbish", content[second : second + 3]):
        assert decode_head(content[:second] + rest).layer == LAYER.hex
        with pytest.raises(DataLoss):
            decode(content[:second] + rest)
    with pytest.raises(DataLoss):
        decode_head(content[: second - 1])


def test_cut_short_anywhere() -> None:
    """No beginning of a record passes for a whole one, its last byte included."""
    content = encode(record(*(Entry(b"%d" % number, FILE, size=number) for number in range(50))))
    for end in range(len(content)):
        with pytest.raises(DataLoss):
            decode(content[:end])


def test_flipped_bits() -> None:
    """A damaged record is DataLoss; the checksum sees what would still parse."""
    content = encode(record(*(Entry(b"%d" % number, FILE, size=number) for number in range(50))))
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x10
        try:
            assert decode(bytes(damaged)) == decode(content)  # a bit of the frame's header that means nothing
        except DataLoss:
            pass


@pytest.mark.parametrize("fields", [{"version": 2}, {"version": 0}, {"format": "other"}])
def test_another_version_is_refused(fields: dict[str, Any]) -> None:
    """A reader does not guess at a version that it does not know, and says which one it found."""
    with pytest.raises(DataLoss, match=f"{FORMAT if 'version' in fields else 'other'} .* is of a version .*; upgrade"):
        decode_head(hostile(**fields))


def test_later_fields_are_passed_over() -> None:
    """Fields may be added without a new version."""
    assert decode_head(hostile(later={"deep": [1]})).notation is Notation.OCI


@pytest.mark.parametrize("path", [b"/etc", b"..", b"../x", b"a/../b", b"a//b", b"a/", b"./a", b"a/.", b"a\0b", b"/"])
@pytest.mark.parametrize("field", ["whiteouts", "opaques", "extras", "own_catalogs", "directories", "witnesses"])
def test_hostile_paths_are_refused(field: str, path: bytes) -> None:
    """Every path of a head becomes part of a path on the node: none may leave the layer."""
    value = [path, DIRECTORY] if field in ("directories", "witnesses") else path
    with pytest.raises(DataLoss):
        decode_head(hostile(**{field: [value]}))


@pytest.mark.parametrize("path", [b"/etc", b"../x", b"a/../b", b"a//b"])
def test_hostile_entries_are_refused(path: bytes) -> None:
    """The same for the entries of the whole tree."""
    head = {"format": FORMAT, "version": 1, "layer": "", "diff_id": "", "notation": "oci", "entries": 1}
    with pytest.raises(DataLoss):
        decode(frames(head, [[path, FILE]]))
    assert decode(frames(head, [[b"a/b", FILE]])).entries == (Entry(b"a/b", FILE),)


@pytest.mark.parametrize(
    "fields",
    [
        *({"whiteouts": [b""]}, {"extras": [b""]}, {"own_catalogs": [b""]}, {"directories": [[b"f", FILE]]}),
        *({"directories": [[b"d", mode]]} for mode in (-1, 2**16, 2**64 - 1)),
        *({"directories": [[b"d", DIRECTORY, uid]]} for uid in (-1, 2**32 - 1, 2**63)),
        *({"directories": [[b"d", DIRECTORY, 0, 0, mtime]]} for mtime in (2**63, 2**64 - 1)),
        *({"directories": [[b"d", DIRECTORY, 0, 0, 0, 0, b"", device]]} for device in ([1], [1, 2, 3], [-1, 0])),
        *({"directories": [[b"d"]]}, {"directories": [["d", DIRECTORY]]}, {"directories": [{}]}, {"whiteouts": b"abc"}),
        *({"layer": 3}, {"notation": "aufs"}, {"version": "1"}, {"entries": None}),
    ],
)
def test_values_that_the_kernel_would_not_take_are_refused(fields: dict[str, Any]) -> None:
    """What could only fail later, where a shim is written, fails where the record is read."""
    with pytest.raises(DataLoss):
        decode_head(hostile(**fields))


@pytest.mark.parametrize(
    "frame",
    [
        *(b"", b"\xc1", b"\x81\xa6format\xa1\xff", b"\x81\xa1\xff\x01", b"\x91" * 100_000, b"\xdf\xff\xff\xff\xff"),
        b"\x83" + msgspec.msgpack.encode({"format": FORMAT, "version": 1})[1:] + b"\xa1z" + b"\x91" * 100_000,
    ],
)
def test_hostile_msgpack(frame: bytes) -> None:
    """Not msgpack, not UTF-8, too deep, promising four milliards of fields: DataLoss."""
    with pytest.raises(DataLoss):
        decode_head(zstandard.compress(frame))


@given(st.binary(max_size=64), st.booleans())
def test_nothing_but_data_loss(content: bytes, is_frame: bool) -> None:
    """For any bytes, raw or inside a good frame, the only error is DataLoss."""
    wrapped = zstandard.compress(content) if is_frame else content
    with pytest.raises(DataLoss):
        decode(wrapped)


def bomb(says: int | None, blocks: int) -> bytes:
    """A zstd frame of `blocks` times 128 KiB of zeros in four bytes each, that says it has `says` bytes."""
    header = bytes([0, 7 << 3]) if says is None else bytes([0b1100_0000, 7 << 3]) + struct.pack("<Q", says)
    block, last = (struct.pack("<I", is_last | 1 << 1 | (128 << 10) << 3)[:3] + b"\0" for is_last in (0, 1))
    return b"\x28\xb5\x2f\xfd" + header + block * (blocks - 1) + last


def most_memory() -> int:
    """The highest memory use of this process so far, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) << 10


@pytest.mark.parametrize("says", [10, FRAME_LIMIT, FRAME_LIMIT + 1, 2**63, None])
@pytest.mark.parametrize("read", [decode_head, decode], ids=lambda read: str(read.__name__))
def test_bombs(says: int | None, read: Callable[[bytes], object]) -> None:
    """128 GiB in 4 MiB are refused before they fill the memory, whatever their header says. What other tests of this
    process took does not count."""
    content = bomb(says, 1 << 20)
    Path("/proc/self/clear_refs").write_text("5")  # the highest memory use begins anew with the present one
    before = most_memory()
    with pytest.raises(DataLoss):
        read(content)
    assert most_memory() - before < 128 << 20


def test_bomb_in_the_second_frame() -> None:
    """The entries are bounded as the head is."""
    first = hostile()
    with pytest.raises(DataLoss):
        decode(first[: first.index(b"\x28\xb5\x2f\xfd", 1)] + bomb(10, 1 << 20))


def test_by_path() -> None:
    """The entries of a tree under their paths."""
    tree = [Entry(posixpath.join(b"d", name), FILE) for name in (b"a", b"\xff")]
    assert record_format.by_path(tree)[b"d/\xff"] is tree[1]
