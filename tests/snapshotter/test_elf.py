"""What a program needs, read from its ELF headers."""

import struct
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from snapshotter.elf import Needs, parse_needs

INTERPRETER = b"/lib/ld-test.so.1"
STRINGS = b"\0libone.so.1\0libtwo.so.2\0$ORIGIN/../lib:/opt/lib\0"


def program(is_wide: bool = True, order: str = "<") -> bytes:
    """The smallest file that says all of it: headers, the interpreter's name, strings, dynamic tags."""
    word = "Q" if is_wide else "I"
    header, entry = (64, 56) if is_wide else (52, 32)
    at_name, address = header + 3 * entry, 0x1000
    at_strings = at_name + len(INTERPRETER) + 1
    at_tags = at_strings + len(STRINGS)
    named = [(1, 1), (1, STRINGS.index(b"libtwo")), (29, STRINGS.index(b"$")), (5, address + at_strings), (0, 0)]
    tags = b"".join(struct.pack(f"{order}2{word}", *tag) for tag in named)
    total = at_tags + len(tags)

    def segment(kind: int, offset: int, size: int) -> bytes:
        if is_wide:
            return struct.pack(f"{order}IIQQQQQQ", kind, 4, offset, address + offset, 0, size, size, 1)
        return struct.pack(f"{order}8I", kind, offset, address + offset, 0, size, size, 4, 1)

    ident = b"\x7fELF" + bytes([2 if is_wide else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    rest = struct.pack(f"{order}HHI3{word}I6H", 2, 62, 1, 0, header, 0, 0, header, entry, 3, 0, 0, 0)
    segments = segment(1, 0, total) + segment(3, at_name, len(INTERPRETER) + 1) + segment(2, at_tags, len(tags))
    return ident + rest + segments + INTERPRETER + b"\0" + STRINGS + tags


def test_both_widths_and_both_orders_of_bytes_are_read() -> None:
    """Interpreter, libraries in their order, and the directories to look for them."""
    expected = Needs(INTERPRETER, (b"libone.so.1", b"libtwo.so.2"), (b"$ORIGIN/../lib", b"/opt/lib"))
    for is_wide in (True, False):
        for order in ("<", ">"):
            assert parse_needs(program(is_wide, order)) == expected


def test_a_real_program_names_its_interpreter() -> None:
    """The one that runs this test."""
    needs = parse_needs(Path(sys.executable).resolve().read_bytes())
    assert needs is not None
    assert needs.interpreter.startswith(b"/lib")
    assert any(name.startswith(b"libc.") for name in needs.libraries)


def test_what_is_no_program_needs_nothing() -> None:
    """Text, nothing, and a header that is cut short."""
    for content in (b"", b"#!/bin/sh\n", b"\x7fELF", program()[:80]):
        assert parse_needs(content) in (None, Needs())


@given(st.binary(max_size=400), st.integers(0, 300), st.binary(min_size=1, max_size=8))
def test_hostile_bytes_never_raise(tail: bytes, place: int, noise: bytes) -> None:
    """Anywhere in a file."""
    content = program()
    parse_needs(content[:place] + noise + content[place + len(noise) :] + tail)
    parse_needs(b"\x7fELF\x02\x01" + tail)
