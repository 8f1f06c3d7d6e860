"""The layer's tree record: what a layer is according to its tar, kept beside it by the publisher.

Publication can lose owners, attributes and hard links, and a raw layer does not say which directories its tar never
listed; the record does, and spares the node a walk. File `.metadata/tree.v1`: two zstd frames one behind the other,
each a msgpack document (`zstd -dc tree.v1 | msgpack2json -B` shows both).

1. The head, all that a node needs to serve the layer: a map with the fields of `Head`.
2. The entries: an array of arrays in the order of `Entry`'s fields, sorted by path.

Paths are bytes, relative, without a leading slash; the root is empty. Times are integer nanoseconds since 1970.
A reader refuses a version it does not know. Fields may be added at the end without a new version.
"""

import io
import posixpath
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, BinaryIO

import msgspec
import zstandard

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss, InvalidArgument
from cvmfsrepo.whiteouts import Markers, ancestors

FORMAT = "cvmfs-layer-tree"
VERSION = 1
FRAME_LIMIT = 256 << 20
"""Bytes that a frame may unpack to: a record is repository content and may lie about its size."""
HEAD_LIMIT = 32 << 20
"""The same for the head, which every node reads: 30 KB of it could else become gigabytes of memory."""
NAMES_LIMIT = 50_000
"""Deletions that a layer may have, and names that publication may have added to it: each becomes a file on the node."""
_STEP = 1 << 10
"""Bytes unpacked at a time; four of them can stand for 128 KiB, so a lie is seen 32 MiB later at the latest."""

# What the kernel takes: a number out of these would only fail where a shim is written.
_Mode = Annotated[int, msgspec.Meta(ge=0, le=0o177777)]
_Id = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF_FFFE)]
_Nanoseconds = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Paths = Annotated[tuple[bytes, ...], msgspec.Meta(max_length=NAMES_LIMIT)]


class Notation(StrEnum):
    """How the layer's deletions stand in its directory."""

    OVERLAY = "overlay"
    OCI = "oci"


class Entry(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """One name of a tree. `mode` is the whole st_mode; `size` is 0 but for regular files; `target` is a symlink's
    text; `device` is (major, minor); `group` is the number that the names of one hard-linked file share, 0 for
    files with one name; `implied` marks a directory that the tar needed but did not list, `early` one that was needed
    when its parent was not listed either."""

    path: bytes
    mode: _Mode
    uid: _Id = 0
    gid: _Id = 0
    mtime: _Nanoseconds = 0
    size: _Count = 0
    target: bytes = b""
    device: tuple[_Count, _Count] = (0, 0)
    xattrs: dict[str, bytes] = {}
    group: _Count = 0
    implied: bool = False
    early: bool = False

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


class Head(msgspec.Struct, frozen=True):
    """The part of a record that a node reads at Prepare.

    `layer` and `diff_id` are 64 hex digits; `extras` the names that publication put into the tree or left in it and
    that are not the image's (catalog markers); `own_catalogs` the files named like one which are the image's;
    `directories` every directory above a marker, an extra or an implied directory, these, and the root; `witnesses`
    a few entries that show what publication loses.
    """

    format: str
    version: int
    layer: str
    diff_id: str
    notation: Notation
    whiteouts: _Paths = ()
    opaques: _Paths = ()
    extras: _Paths = ()
    own_catalogs: _Paths = ()
    directories: tuple[Entry, ...] = ()
    witnesses: tuple[Entry, ...] = ()
    entries: int = 0
    size: int = 0

    @property
    def markers(self) -> Markers:
        return Markers(self.whiteouts, self.opaques)


class Record(msgspec.Struct, frozen=True):
    """A whole record: the head and every entry of the tree, sorted by path."""

    head: Head
    entries: tuple[Entry, ...]


def make_record(
    layer: Digest,
    diff_id: Digest,
    notation: Notation,
    entries: Iterable[Entry],
    markers: Markers,
    extras: Sequence[bytes],
) -> Record:
    """The record of a layer from its entries (markers not among them); `extras` as in `Head`."""
    ordered = tuple(sorted(entries, key=lambda entry: entry.path))
    for entry in ordered:
        _check_attribute_names(entry)
    own = tuple(e.path for e in ordered if posixpath.basename(e.path) == b".cvmfscatalog")
    implied = [e.path for e in ordered if e.implied]
    concerned = [*markers.whiteouts, *(posixpath.join(d, b"x") for d in markers.opaques), *extras, *implied]
    wanted = {b"", *implied, *(above for path in concerned for above in ancestors(path))}
    head = Head(
        format=FORMAT,
        version=VERSION,
        layer=layer.hex,
        diff_id=diff_id.hex,
        notation=notation,
        whiteouts=markers.whiteouts,
        opaques=markers.opaques,
        extras=tuple(sorted(extras)),
        own_catalogs=own,
        directories=tuple(e for e in ordered if e.is_directory and e.path in wanted),
        witnesses=witnesses(ordered),
        entries=len(ordered),
        size=sum(e.size for e in ordered),
    )
    return Record(head, ordered)


def witnesses(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """At most one entry for each thing a publication is known to lose."""
    found: dict[str, Entry] = {}
    for entry in entries:
        if entry.implied:
            continue
        found.setdefault("root-owned" if (entry.uid, entry.gid) == (0, 0) else "foreign", entry)
        if entry.xattrs:
            found.setdefault("xattrs", entry)
        if entry.group:
            found.setdefault("hard-links", entry)
    return tuple({entry.path: entry for entry in found.values()}.values())


def encode(record: Record) -> bytes:
    """The bytes of a record; the same record gives the same bytes for one version of the zstd library."""
    frames = [msgspec.msgpack.encode(part, order="deterministic") for part in (record.head, record.entries)]
    return b"".join(zstandard.ZstdCompressor(level=9, write_checksum=True).compress(frame) for frame in frames)


def decode_head(record: bytes | BinaryIO, thing: str = "tree record") -> Head:
    """The head alone, reading no more of a record than its beginning; DataLoss says what is wrong with another
    input."""
    stream = io.BytesIO(record) if isinstance(record, bytes) else record
    return _head(_frame(stream.read, thing, HEAD_LIMIT)[0], thing)


def decode(content: bytes, thing: str = "tree record") -> Record:
    """A whole record, checked; DataLoss says what is wrong with another input."""
    stream = io.BytesIO(content)
    first, ahead = _frame(stream.read, thing, HEAD_LIMIT)
    head = _head(first, thing)
    second, _ = _frame(io.BytesIO(ahead + stream.read()).read, thing, FRAME_LIMIT)
    try:
        entries = _decode_entries(second)
    except _UNREADABLE as error:
        raise DataLoss(thing, head.layer, f"has entries that do not parse: {error}") from None
    if len(entries) != head.entries:
        raise DataLoss(thing, head.layer, f"promises {head.entries} entries and holds {len(entries)}")
    for entry in entries:
        check_path(entry.path, thing)
    return Record(head, entries)


def by_path(entries: Iterable[Entry]) -> Mapping[bytes, Entry]:
    return {entry.path: entry for entry in entries}


_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def _head(frame: bytes, thing: str) -> Head:
    try:
        version = _decode_version(frame)
        if version.format != FORMAT or version.version != VERSION:
            raise DataLoss(
                thing,
                f"{version.format} {version.version}",
                "is of a version that this program does not read",
                "upgrade this program",
            )
        head = _decode_head(frame)
    except _UNREADABLE as error:
        raise DataLoss(thing, frame[:40], f"does not parse: {error}") from None
    names = (*head.whiteouts, *head.extras, *head.own_catalogs)
    for path in (*names, *head.opaques, *(entry.path for entry in (*head.directories, *head.witnesses))):
        check_path(path, thing)
    if b"" in names or not all(entry.is_directory for entry in head.directories):
        raise DataLoss(thing, head.layer, "takes the layer's root for a name or a file for a directory")
    return head


def _check_attribute_names(entry: Entry) -> None:
    """Names are text in a record; the kernel takes any bytes."""
    try:
        "".join(entry.xattrs).encode()
    except UnicodeEncodeError:
        problem = f"has an extended attribute whose name is not UTF-8 ({sorted(entry.xattrs)})"
        raise InvalidArgument("entry", entry.path, problem, "build the image without it") from None


class _Version(msgspec.Struct):
    format: str
    version: int


# Made at import, by one thread: msgspec crashes where several threads decode a type for the first time at once.
_decode_entries = msgspec.msgpack.Decoder(tuple[Entry, ...]).decode
_decode_version = msgspec.msgpack.Decoder(_Version).decode
_decode_head = msgspec.msgpack.Decoder(Head).decode


def check_path(path: bytes, thing: str) -> None:
    """Refuses a path that is not relative, plain and below the layer's root (the root itself is b"")."""
    parts = path.split(b"/")
    if path and (b"" in parts or b"." in parts or b".." in parts or b"\0" in path):
        raise DataLoss(thing, path, "is a path that leaves the layer or is not in its plain form")


def _frame(read: Callable[[int], bytes], thing: str, limit: int) -> tuple[bytes, bytes]:
    """The first zstd frame, unpacked, and what was read beyond it."""
    chunk = read(_STEP)
    try:
        size = zstandard.get_frame_parameters(chunk).content_size
        if size > limit:
            raise DataLoss(thing, size, f"unpacks to more than {limit} bytes or does not say its size")
        reader, unpacked = zstandard.ZstdDecompressor().decompressobj(), bytearray()
        while chunk and len(unpacked) <= size:
            unpacked += reader.decompress(chunk)
            chunk = b"" if reader.eof else read(_STEP)
    except zstandard.ZstdError as error:
        raise DataLoss(thing, chunk[:40], f"is not a zstd frame: {error}") from None
    if len(unpacked) > size:
        raise DataLoss(thing, size, "unpacks to more bytes than it says")
    if not reader.eof:
        raise DataLoss(thing, len(unpacked), "is cut short", "publish the layer's record again")
    return bytes(unpacked), reader.unused_data
