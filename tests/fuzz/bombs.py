"""`python -m tests.fuzz.bombs TARGET` calls one parser with input that is deep or large, under limits of the kernel."""

import resource
import struct
import sys
from collections.abc import Iterator

import zstandard

from tests.fuzz.targets import TARGETS, Target

MEMORY, SECONDS = 1 << 30, 20
_PIECES = (b"[", b"{", b'{"a":', b"(", b"a=[", b"a.", b"\x91", b"\x81\xa1a", b"sha256:", b"/", b"../", b"a", b"9")


def bombs(target: Target) -> Iterator[bytes]:
    """For every parser the same, whether or not they are of its language, and around a valid input."""
    seed, deep = target.seeds[0], target.deepest
    for piece in _PIECES:
        yield piece * deep
        yield seed + piece * deep
        yield piece * deep + seed
    yield seed * (10 * deep // len(seed))
    for number in (b"1" * 5000, b"1e" + b"9" * 400, b"0x" + b"f" * 5000):
        yield b'{"config": {"size": ' + number + b"}}"
        yield b"deadline = " + number
    yield b"deadline = " + b"[" * 5000 + b"]" * 5000
    yield b"a.b." * (deep // 20) + b"c = 1"
    yield from frames()


def frames() -> Iterator[bytes]:
    """Records that promise more than they hold, and that hold more than anybody needs."""
    compress = zstandard.ZstdCompressor().compress
    huge = b"\xdd" + struct.pack(">I", 0xFFFF_FFFF)
    for frame in (b"\0" * (64 << 20), b"\x91" * (1 << 20), huge, b"\x90" * (1 << 20)):
        yield compress(frame)
        yield compress(frame) * 2
    yield b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 1 << 60)
    yield b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", (256 << 20) - 1)


def main(name: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    for number, bomb in enumerate(bombs(TARGETS[name])):
        try:
            TARGETS[name].run(bomb)
        except BaseException:
            print(f"bomb {number}: {bomb[:60]!r}... of {len(bomb)} bytes", file=sys.stderr)
            raise


if __name__ == "__main__":
    main(sys.argv[1])
