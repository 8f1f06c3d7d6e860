"""What a program needs beside itself, out of its ELF headers. Hostile input: whatever does not parse needs nothing.

Source: System V ABI, "Object Files" and "Program Loading and Dynamic Linking".
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_MAGIC = b"\x7fELF"
_LOAD, _DYNAMIC, _INTERPRETER = 1, 2, 3
_NEEDED, _STRINGS, _RPATH, _RUNPATH = 1, 5, 15, 29
_LONGEST_NAME = 4096


@dataclass(frozen=True, slots=True)
class Needs:
    """The program interpreter ("" for a library), names of shared libraries, and directories to look for them first,
    in which $ORIGIN stands for the file's own."""

    interpreter: bytes = b""
    libraries: tuple[bytes, ...] = ()
    directories: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class _Segment:
    kind: int
    offset: int
    address: int
    size: int


def parse_needs(content: bytes) -> Needs | None:
    """What a file needs; None where it is no ELF file, or a broken one."""
    if not content.startswith(_MAGIC) or len(content) < 52:
        return None
    try:
        return _needs(content, is_wide=content[4] == 2, order=">" if content[5] == 2 else "<")
    except (struct.error, IndexError, OverflowError):
        return None


def _needs(content: bytes, is_wide: bool, order: str) -> Needs:
    segments = list(_segments(content, is_wide, order))
    interpreter = next((s for s in segments if s.kind == _INTERPRETER), None)
    path = content[interpreter.offset : interpreter.offset + interpreter.size].rstrip(b"\0") if interpreter else b""
    tags = [tag for s in segments if s.kind == _DYNAMIC for tag in _tags(content, s, is_wide, order)]
    strings = next((_offset(segments, value) for tag, value in tags if tag == _STRINGS), None)
    if strings is None:
        return Needs(path)
    libraries = tuple(_text(content, strings + value) for tag, value in tags if tag == _NEEDED)
    searched = [_text(content, strings + value) for tag, value in tags if tag in (_RPATH, _RUNPATH)]
    return Needs(path, libraries, tuple(part for text in searched for part in text.split(b":") if part))


def _segments(content: bytes, is_wide: bool, order: str) -> Iterator[_Segment]:
    table = struct.unpack_from(f"{order}Q" if is_wide else f"{order}I", content, 32 if is_wide else 28)[0]
    size, count = struct.unpack_from(f"{order}HH", content, 54 if is_wide else 42)
    for number in range(count):
        at = table + number * size
        if is_wide:
            kind, _, offset, address, _, length = struct.unpack_from(f"{order}IIQQQQ", content, at)
        else:
            kind, offset, address, _, length = struct.unpack_from(f"{order}IIIII", content, at)
        yield _Segment(kind, offset, address, length)


def _tags(content: bytes, segment: _Segment, is_wide: bool, order: str) -> Iterator[tuple[int, int]]:
    entry = struct.Struct(f"{order}QQ" if is_wide else f"{order}II")
    end = min(segment.offset + segment.size, len(content))
    for at in range(segment.offset, end - entry.size + 1, entry.size):
        tag, value = entry.unpack_from(content, at)
        if tag == 0:
            return
        yield tag, value


def _offset(segments: list[_Segment], address: int) -> int | None:
    """Where in the file an address is."""
    for segment in segments:
        if segment.kind == _LOAD and segment.address <= address < segment.address + segment.size:
            return segment.offset + address - segment.address
    return None


def _text(content: bytes, offset: int) -> bytes:
    end = content.find(b"\0", offset, offset + _LONGEST_NAME)
    return content[offset:end] if end >= 0 else b""
