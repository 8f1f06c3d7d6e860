"""A layer's tar -> its members, each checked before anything is made of it.

The standard library parses the headers, forward only. Three things are stricter here than its defaults, and as
containerd does them: a damaged header in the middle is an error and not the end, global pax headers are passed over,
and a header may not be larger than 1 MiB.
"""

import os
import re
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from enum import Enum
from typing import Any, NoReturn, cast

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss, InvalidArgument
from publisher.unpacking.contained import REMEDY, contained
from publisher.unpacking.stream import CHUNK, TarBytes

_XATTR = "SCHILY.xattr."
_TIME = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{0,30})?", re.ASCII)
_LAST_TIME = (1 << 63) - 1
_LARGEST_ID = (1 << 32) - 2
_MAJORS, _MINORS = 1 << 12, 1 << 20
_HEADER_ERRORS = (tarfile.TarError, ValueError, IndexError, OverflowError, RecursionError)
"""What tarfile raises for headers that somebody made to annoy it."""


class Kind(Enum):
    """The value is the file type of st_mode; a hard link has that of its target."""

    FILE = stat.S_IFREG
    DIRECTORY = stat.S_IFDIR
    SYMLINK = stat.S_IFLNK
    CHARACTER = stat.S_IFCHR
    BLOCK = stat.S_IFBLK
    FIFO = stat.S_IFIFO
    HARD_LINK = 0


_KINDS = {
    tarfile.REGTYPE: Kind.FILE,
    tarfile.AREGTYPE: Kind.FILE,
    tarfile.CONTTYPE: Kind.FILE,
    tarfile.GNUTYPE_SPARSE: Kind.FILE,
    tarfile.DIRTYPE: Kind.DIRECTORY,
    tarfile.SYMTYPE: Kind.SYMLINK,
    tarfile.CHRTYPE: Kind.CHARACTER,
    tarfile.BLKTYPE: Kind.BLOCK,
    tarfile.FIFOTYPE: Kind.FIFO,
    tarfile.LNKTYPE: Kind.HARD_LINK,
}


@dataclass(frozen=True, slots=True)
class Member:
    """One member. `path` and a hard link's `target` are contained; a symlink's is its text. `extents` are the
    (offset, size) of a file's data, whose bytes follow one another in the tar; `mtime` is in nanoseconds."""

    path: bytes
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    target: bytes
    device: tuple[int, int]
    xattrs: dict[str, bytes]
    extents: tuple[tuple[int, int], ...]


class _NoGlobals(dict[str, str]):
    """Keeps nothing, so that no global pax header reaches the members behind it."""

    def __setitem__(self, key: str, value: str) -> None:
        return


def walk_members(tar: TarBytes, layer: Digest) -> Iterator[Member]:
    """The members in the tar's order. A file's content is read with `walk_content` before the next one is asked for.

    DataLoss where the tar is damaged; InvalidArgument for a member that can never be unpacked.
    """
    if tar.at_end():
        return
    try:
        archive = tarfile.TarFile(
            fileobj=cast(Any, tar), encoding="utf-8", errors="surrogateescape", format=tarfile.PAX_FORMAT,
            pax_headers=_NoGlobals(),
        )  # fmt: skip
        while (info := archive.next()) is not None:
            cast(Any, archive).members.clear()
            yield _member(info)
    except _HEADER_ERRORS as error:
        _damaged(layer, tar, str(error))
    if any(tar.last):
        _damaged(layer, tar, "invalid header")


def walk_content(tar: TarBytes, member: Member, layer: Digest) -> Iterator[tuple[int, bytes]]:
    """The pieces of a file and their offsets; holes are left out. DataLoss where the tar ends too early."""
    for offset, size in member.extents:
        while size:
            piece = tar.read(min(size, CHUNK))
            if not piece or tar.padded:
                _damaged(layer, tar, f"it ends inside of {os.fsdecode(member.path)!r}")
            yield offset, piece
            offset, size = offset + len(piece), size - len(piece)


def _damaged(layer: Digest, tar: TarBytes, problem: str) -> NoReturn:
    raise DataLoss("layer", str(layer), f"is a damaged tar: {problem} near byte {tar.tell()}", REMEDY) from None


def _member(info: tarfile.TarInfo) -> Member:
    name = _bytes(info.name)
    path = contained(name, "layer entry")
    kind = _KINDS.get(info.type)
    if kind is None:
        _refuse(name, f"is of the unknown type {info.type!r}")
    size = info.size if kind is Kind.FILE else 0
    return Member(
        path=path,
        kind=kind,
        mode=stat.S_IMODE(info.mode),
        uid=_number(name, "owner", info.uid, _LARGEST_ID),
        gid=_number(name, "group", info.gid, _LARGEST_ID),
        mtime=_time(name, info),
        size=_number(name, "size", size, _LAST_TIME),
        target=_target(name, kind, _bytes(info.linkname)),
        device=_device(name, kind, info),
        xattrs=_xattrs(name, info),
        extents=_extents(name, info, size),
    )


def _refuse(name: bytes, problem: str) -> NoReturn:
    raise InvalidArgument("layer entry", os.fsdecode(name), problem, REMEDY)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _number(name: bytes, what: str, value: int, largest: int) -> int:
    if not 0 <= value <= largest:
        _refuse(name, f"has the {what} {value}, which cannot be")
    return value


def _time(name: bytes, info: tarfile.TarInfo) -> int:
    """Nanoseconds; times that a kernel may not hold are 1970, as containerd has it."""
    text = info.pax_headers.get("mtime") or str(int(info.mtime))
    if not _TIME.fullmatch(text):
        _refuse(name, f"has the time {text!r}, which is no number")
    value = int((Decimal(text) * 1_000_000_000).to_integral_value(ROUND_FLOOR))
    return value if 0 <= value <= _LAST_TIME else 0


def _target(name: bytes, kind: Kind, target: bytes) -> bytes:
    if kind is Kind.HARD_LINK:
        return contained(target, f"hard link {os.fsdecode(name)!r} to")
    if kind is Kind.SYMLINK:
        if not target or b"\0" in target:
            _refuse(name, "is a symlink whose target is empty or holds a NUL byte")
        return target
    return b""


def _device(name: bytes, kind: Kind, info: tarfile.TarInfo) -> tuple[int, int]:
    if kind not in (Kind.CHARACTER, Kind.BLOCK):
        return 0, 0
    major = _number(name, "major device number", info.devmajor, _MAJORS - 1)
    return major, _number(name, "minor device number", info.devminor, _MINORS - 1)


def _xattrs(name: bytes, info: tarfile.TarInfo) -> dict[str, bytes]:
    found = {k.removeprefix(_XATTR): _bytes(v) for k, v in info.pax_headers.items() if k.startswith(_XATTR)}
    if any("\0" in key or "." not in key for key in found):
        _refuse(name, "has an extended attribute with a malformed name")
    return dict(sorted(found.items()))


def _extents(name: bytes, info: tarfile.TarInfo, size: int) -> tuple[tuple[int, int], ...]:
    if not info.issparse():
        return ((0, size),) if size else ()
    extents = tuple(cast(list[tuple[int, int]], info.sparse))
    end = 0
    for offset, length in extents:
        if offset < end or length < 0 or offset + length > size:
            _refuse(name, "is a sparse file whose map does not fit it")
        end = offset + length
    return extents
