"""What a container engine needs to give a layer's tar back byte for byte: the layer's tar-split file.

podman pushes and saves a layer by putting its tar together again. What stands between the contents of files is in this
file, the contents are read from the unpacked layer. The format is that of github.com/vbatts/tar-split, as
containers/storage keeps it: gzip of JSON lines in the tar's order, each either bytes of the tar (a segment) or the
name, size and CRC-64 of a file whose content stands there.

What no file of the unpacked layer holds as the tar has it (data of sparse files, of deletion markers) is a segment too.
A layer of which a later member replaces a file that has content gets no tar-split: one of the two is nowhere on the
disk, and readers refuse a name that comes twice.
"""

import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
from fastcrc import crc64

from publisher.unpacking.members import Member
from publisher.unpacking.space import FreeSpace

_SEGMENT_LIMIT: Final = 1 << 20
_WRITE_SIZE: Final = 256 << 10
_FILE, _SEGMENT = 1, 2
_LEVEL: Final = 4
_GZIP: Final = 31
"""zlib's window bits for a gzip stream; it writes no time, so equal layers give equal bytes."""


class _Entry(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One line; bytes are base64 in JSON. `name_raw` stands in place of a name that is not UTF-8."""

    type: int
    name: str = ""
    name_raw: bytes = b""
    size: int = 0
    payload: bytes
    position: int


class TarSplit:
    """One layer's tar-split while its tar is read. One that `is_kept` by nobody costs nothing."""

    def __init__(self, file: BinaryIO, space: FreeSpace, is_kept: bool = True) -> None:
        self._file, self._space = file, space
        self._gzip = zlib.compressobj(_LEVEL, wbits=_GZIP)
        self._encode = msgspec.json.Encoder().encode
        self._lines, self._segment = bytearray(), bytearray()
        self._position = 0
        self._names = set[bytes]()
        self._in_content = False
        self._crc = 0
        self.is_kept = is_kept
        """Whether the tar can still be put together from what is written and what is on the disk."""

    def take(self, piece: memoryview) -> None:
        """The next bytes of the tar, whatever they are."""
        if not self.is_kept:
            return
        if self._in_content:
            self._crc = crc64.go_iso(piece, self._crc)
            return
        self._segment += piece
        if len(self._segment) >= _SEGMENT_LIMIT:
            self._end_segment()

    @contextmanager
    def content_of(self, member: Member) -> Iterator[None]:
        """While a file's content is read and written to the disk. A sparse file's stays in segments: its file has
        holes where the tar has nothing."""
        if not self.is_kept or member.extents != ((0, member.size),):
            yield
            return
        self._end_segment()
        self._in_content, self._crc = True, 0
        yield
        self._in_content = False
        name, raw = _names(member.path)
        checksum = self._crc.to_bytes(8, "big")
        self._add(_Entry(type=_FILE, name=name, name_raw=raw, size=member.size, payload=checksum, position=0))
        self._names.add(member.path)

    def lose(self, path: bytes) -> None:
        """Says that what a name led to is removed."""
        if path in self._names:
            self.is_kept = False

    def finish(self) -> None:
        """Writes what is left, when the tar has been read to its end."""
        if self.is_kept:
            self._end_segment()
            self._write(self._gzip.compress(self._lines) + self._gzip.flush())

    def _end_segment(self) -> None:
        if self._segment:
            self._add(_Entry(type=_SEGMENT, payload=bytes(self._segment), position=0))
            self._segment.clear()

    def _add(self, entry: _Entry) -> None:
        entry.position = self._position
        self._position += 1
        self._lines += self._encode(entry) + b"\n"
        if len(self._lines) >= _WRITE_SIZE:
            self._write(self._gzip.compress(self._lines))
            self._lines.clear()

    def _write(self, compressed: bytes) -> None:
        self._space.take(len(compressed))
        self._file.write(compressed)


@contextmanager
def written_to(path: Path | None, space: FreeSpace) -> Iterator[TarSplit]:
    """The tar-split of a layer, for all to read at `path` once the body has ended; with None, or where the tar cannot
    be put together again, there is no such file."""
    if path is None:
        yield TarSplit(io.BytesIO(), space, is_kept=False)
        return
    with path.open("xb") as file:
        split = TarSplit(file, space)
        yield split
        split.finish()
    if split.is_kept:
        path.chmod(0o644)
    else:
        path.unlink()


def _names(path: bytes) -> tuple[str, bytes]:
    try:
        return path.decode(), b""
    except UnicodeDecodeError:
        return "", path
