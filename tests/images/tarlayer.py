"""Layer tars from a readable description, byte for byte the same every time.

The headers are pax as Go's writer makes them (raw bytes, no `hdrcharset` record), because that is what real
images hold. Nothing is added and nothing is sorted: a parent that is not described is not in the tar, for
directories that a tar does not list are one of the cases to be shown. Names are text with `surrogateescape`
for bytes that are not UTF-8.
"""

import io
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import ClassVar, Final

WHITEOUT_PREFIX: Final = ".wh."
OPAQUE_NAME: Final = ".wh..wh..opq"
SECOND: Final = 1_000_000_000
MTIME_NS: Final = 1_600_000_000 * SECOND
"""The time of every entry that names no other: a whole second, as `docker build` writes it."""

_BLOCK: Final = 512
_MAX_OCTAL_ID: Final = 0o7777777
_MAX_OCTAL_SIZE: Final = 0o77777777777


@dataclass(frozen=True, slots=True)
class Entry:
    """What every member of a layer has; `mode` are the permission bits with setuid, setgid and sticky."""

    typeflag: ClassVar[bytes] = tarfile.REGTYPE

    path: str
    mode: int = field(default=0o644, kw_only=True)
    uid: int = field(default=0, kw_only=True)
    gid: int = field(default=0, kw_only=True)
    mtime_ns: int = field(default=MTIME_NS, kw_only=True)
    xattrs: Mapping[str, bytes] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True, slots=True)
class File(Entry):
    content: bytes = b""


@dataclass(frozen=True, slots=True)
class Dir(Entry):
    """A listed directory; the path `.` is the root of the layer, written `./`."""

    typeflag: ClassVar[bytes] = tarfile.DIRTYPE

    mode: int = field(default=0o755, kw_only=True)


@dataclass(frozen=True, slots=True)
class Symlink(Entry):
    typeflag: ClassVar[bytes] = tarfile.SYMTYPE

    target: str = ""
    mode: int = field(default=0o777, kw_only=True)


@dataclass(frozen=True, slots=True)
class Hardlink(Entry):
    """Another name of an earlier member of the layer; give it that member's metadata, as tools do."""

    typeflag: ClassVar[bytes] = tarfile.LNKTYPE

    target: str = ""


@dataclass(frozen=True, slots=True)
class Device(Entry):
    typeflag: ClassVar[bytes] = tarfile.CHRTYPE

    major: int = 1
    minor: int = 3
    block: bool = field(default=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Fifo(Entry):
    typeflag: ClassVar[bytes] = tarfile.FIFOTYPE


@dataclass(frozen=True, slots=True)
class Whiteout(Entry):
    """The deletion of `path` from the layers below, written as an empty file `.wh.<name>` beside it."""


@dataclass(frozen=True, slots=True)
class Opaque(Entry):
    """Nothing of the directory `path` is taken from the layers below; `.` is the root of the layer."""


def layer_tar(entries: Iterable[Entry], *, closed: bool = True) -> bytes:
    """The uncompressed tar of one layer: the members in the order given, then two empty blocks.

    Without `closed` it stops at the last byte of the last member, as `umoci insert` leaves it; Go reads it so.
    """
    out = io.BytesIO()
    content = b""
    for entry in entries:
        content = entry.content if isinstance(entry, File) else b""
        out.write(_header(entry, len(content)) + _padded(content))
    if closed:
        out.write(bytes(2 * _BLOCK))
    else:
        out.truncate(out.tell() - -len(content) % _BLOCK)
    return out.getvalue()


def member_name(entry: Entry) -> str:
    """The name as it stands in the tar: markers spelled out, directories with their slash."""
    head, slash, tail = entry.path.rpartition("/")
    match entry:
        case Whiteout():
            return f"{head}{slash}{WHITEOUT_PREFIX}{tail}"
        case Opaque():
            return OPAQUE_NAME if entry.path == "." else f"{entry.path}/{OPAQUE_NAME}"
        case Dir():
            return f"{entry.path}/"
        case _:
            return entry.path


def _header(entry: Entry, size: int) -> bytes:
    """The ustar block, after pax records for what does not fit into it."""
    records: dict[str, bytes] = {}
    info = tarfile.TarInfo()
    info.type = tarfile.BLKTYPE if isinstance(entry, Device) and entry.block else entry.typeflag
    info.mode = entry.mode
    info.name = _text("path", member_name(entry), records)
    if isinstance(entry, Symlink | Hardlink):
        info.linkname = _text("linkpath", entry.target, records)
    if isinstance(entry, Device):
        info.devmajor, info.devminor = entry.major, entry.minor
    info.uid = _number("uid", entry.uid, _MAX_OCTAL_ID, records)
    info.gid = _number("gid", entry.gid, _MAX_OCTAL_ID, records)
    info.size = _number("size", size, _MAX_OCTAL_SIZE, records)
    info.mtime = max(0, entry.mtime_ns // SECOND)
    if entry.mtime_ns % SECOND or entry.mtime_ns < 0:
        records["mtime"] = f"{Decimal(entry.mtime_ns) / SECOND:f}".encode()
    for name, value in sorted(entry.xattrs.items()):
        records[f"SCHILY.xattr.{name}"] = value
    return _pax(records) + info.tobuf(tarfile.USTAR_FORMAT)


def _text(key: str, text: str, records: dict[str, bytes]) -> str:
    """The part that every reader understands; the whole goes to `records` where ustar cannot hold it."""
    raw = text.encode("utf-8", "surrogateescape")
    if raw.isascii() and len(raw) <= tarfile.LENGTH_NAME:
        return text
    records[key] = raw
    return raw.decode("ascii", "ignore")[: tarfile.LENGTH_NAME - 1] or "_"


def _number(key: str, value: int, limit: int, records: dict[str, bytes]) -> int:
    if 0 <= value <= limit:
        return value
    records[key] = str(value).encode()
    return 0


def _pax(records: Mapping[str, bytes]) -> bytes:
    if not records:
        return b""
    body = b"".join(_record(key, value) for key, value in records.items())
    info = tarfile.TarInfo("PaxHeaders.0/entry")
    info.type = tarfile.XHDTYPE
    info.size = len(body)
    return info.tobuf(tarfile.USTAR_FORMAT) + _padded(body)


def _record(key: str, value: bytes) -> bytes:
    """`<length> <key>=<value>\\n`, where the length counts its own digits too."""
    rest = b" " + key.encode() + b"=" + value + b"\n"
    length = len(rest) + 1
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return str(length).encode() + rest


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _BLOCK)
