"""A layer's bytes, read once: the blob is checked against its descriptor while it is unpacked, the tar against its
diff id.

The compression is told by the first bytes, for media types are not always true. Several gzip members and several zstd
frames, skippable ones too, are one stream (eStargz and zstd:chunked layers are made of them).
"""

import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol, cast, runtime_checkable

import zstandard
from isal import igzip

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss
from cvmfsrepo.oci import Descriptor
from publisher.unpacking.ahead import Ahead

CHUNK = 1 << 20
_LARGEST_READ = CHUNK + 512
"""The largest pax header that containerd takes, too."""

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = tuple(bytes([low]) + b"\x2a\x4d\x18" for low in range(0x50, 0x60))
_DAMAGE = (gzip.BadGzipFile, EOFError, zlib.error, zstandard.ZstdError)

REMEDY = "fetch or build the image again"


@runtime_checkable
class Interruptible(Protocol):
    """A raw stream that may wait for others."""

    def interrupt(self) -> None:
        """Makes a read fail that another thread is in, and each one after it."""


class VerifiedBlob(io.RawIOBase):
    """The raw blob, never more of it than the descriptor promises. DataLoss at its end, or before it, when size or
    digest are other ones."""

    def __init__(self, raw: io.RawIOBase, descriptor: Descriptor, advance: Callable[[int], object]) -> None:
        super().__init__()
        self._raw, self._descriptor, self._advance = raw, descriptor, advance
        self._hash = hashlib.sha256()
        self._count = 0
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """The next bytes, counted and hashed."""
        if self._ended:
            return 0
        count = self._raw.readinto(buffer) or 0
        self._hash.update(buffer[:count])
        self._count += count
        self._advance(count)
        size = self._descriptor.size
        if self._count > size or (not count and self._count < size):
            raise DataLoss("blob", str(self._descriptor.digest), f"is not of {size} bytes: {self._count} came", REMEDY)
        if not count:
            self._ended = True
            if self._hash.hexdigest() != self._descriptor.digest.hex:
                problem = f"holds bytes of another digest: sha256:{self._hash.hexdigest()}"
                raise DataLoss("blob", str(self._descriptor.digest), problem, REMEDY)
        return count

    def interrupt(self) -> None:
        """Ends a read of another thread, where the raw stream can do that."""
        if isinstance(self._raw, Interruptible):
            self._raw.interrupt()

    def drain(self) -> None:
        """Reads and checks what is left."""
        buffer = memoryview(bytearray(CHUNK))
        while self.readinto(buffer):
            pass


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class TarBytes:
    """The uncompressed tar of a blob, forward only, in the form that tarfile reads from. `tap` is given each of its
    bytes once, in pieces, when the reader takes them. The blob is read ahead by a thread until `close`."""

    def __init__(
        self, blob: VerifiedBlob, layer: Digest, tap: Callable[[memoryview], object] = lambda piece: None
    ) -> None:
        self._layer, self._tap = layer, tap
        self._hash = hashlib.sha256()
        self._ahead = Ahead(self._hashed(blob), blob.interrupt)
        self._buffer = memoryview(b"")
        self._position = 0
        self._ended = False
        self._size = 0
        self.padded = False
        """Whether the tar ended inside of a block, and zeros were read that it does not hold: some tools leave the
        padding of the last member out."""
        self.last = b""
        """What the last read gave: how an archive ended."""

    @property
    def digest(self) -> Digest:
        """Of all bytes that were read from the blob: the diff id once the stream is drained."""
        return Digest(self._hash.hexdigest())

    @property
    def size(self) -> int:
        """Bytes of the tar so far."""
        return self._size

    def close(self) -> None:
        """Reads no more from the blob."""
        self._ahead.stop()

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, fewer only at the end. Nothing twice is an error: no reader of tars may spin there."""
        if size > _LARGEST_READ or size < 0:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self.last = b"".join(bytes(piece) for piece in self._pieces(size))
        if size and not self.last:
            if self._ended:
                raise tarfile.ReadError("unexpected end of data")
            self._ended = True
        return self.last

    def seek(self, position: int) -> int:
        if position < self._position:
            raise tarfile.StreamError("an entry of negative size")
        wanted = position - self._position
        for _ in self._pieces(wanted):
            pass
        return self._position

    def at_end(self) -> bool:
        """Whether nothing more comes."""
        return not self._fill()

    def drain_padding(self) -> None:
        """Reads what stands behind the archive's end: zeros, or else DataLoss, for every reader of tars would pass
        over it, and nobody would see what the image holds there."""
        while self._fill():
            piece = self._take(len(self._buffer))
            if bytes(piece).count(0) != len(piece):
                raise DataLoss("layer", str(self._layer), "holds other bytes behind the end of its tar", REMEDY)

    def _pieces(self, size: int) -> list[memoryview]:
        pieces = []
        while size and self._fill():
            piece = self._take(min(size, len(self._buffer)))
            if size <= _LARGEST_READ:
                pieces.append(piece)
            size -= len(piece)
        return pieces

    def _take(self, size: int) -> memoryview:
        piece, self._buffer = self._buffer[:size], self._buffer[size:]
        self._position += size
        if not self.padded:
            self._tap(piece)
        return piece

    def _fill(self) -> bool:
        if not self._buffer:
            chunk = self._ahead.take()
            self._size += len(chunk)
            if not chunk and self._position % tarfile.BLOCKSIZE:
                chunk = bytes(-self._position % tarfile.BLOCKSIZE)
                self.padded = True
            self._buffer = memoryview(chunk)
        return bool(self._buffer)

    def _hashed(self, blob: io.RawIOBase) -> Iterator[bytes]:
        try:
            source = _decompressed(io.BufferedReader(blob, CHUNK))
            while chunk := source.read(CHUNK):
                self._hash.update(chunk)
                yield chunk
        except _DAMAGE as error:
            raise DataLoss("layer", str(self._layer), f"does not decompress: {error}", REMEDY) from None


def _decompressed(blob: io.BufferedReader) -> _Readable:
    start = blob.peek(4)[:4]
    if start.startswith(_GZIP):
        return cast(_Readable, igzip.IGzipFile(fileobj=blob))  # type: ignore[no-untyped-call]
    if start == _ZSTD or start in _ZSTD_SKIPPABLE:
        return zstandard.ZstdDecompressor().stream_reader(blob, read_across_frames=True, closefd=False)
    return blob
