"""Which tree an image's is made from, and which trees are kept for that."""

from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss
from cvmfsrepo.layout import Layout
from publisher.flat.apptainer import VERSION
from publisher.flat.chains import find_base, find_chain, shortened
from publisher.flat.marks import Known, Mark, walk_known


def mark(text: str, sizes: dict[str, int] | None = None, apptainer: int = VERSION) -> Mark:
    """Each letter is a layer, of 100 entries where nothing else is said."""
    digests = tuple(Digest.of(letter.encode()) for letter in text)
    return Mark(digests, digests, tuple((sizes or {}).get(letter, 100) for letter in text), apptainer)


def flat(text: str, sizes: dict[str, int] | None = None) -> Known:
    return Known(Path("flat", text), mark(text, sizes), Digest.of(text.encode()))


def chain(text: str) -> Known:
    return Known(Path("chain", text), mark(text, apptainer=0))


def base_of(text: str, *known: Known, sizes: dict[str, int] | None = None) -> str:
    found = find_base(mark(text, sizes), known)
    return str(found.known.final) if found else ""


def test_the_base_is_what_costs_least() -> None:
    """The longest shared beginning, unless undoing the rest of that tree costs more than a shorter one lacks."""
    assert base_of("abx", flat("ab"), flat("a"), flat("abc")) == "flat/ab"
    assert base_of("abx", flat("a"), flat("abc", {"c": 900})) == "flat/a"
    assert base_of("abx", flat("abc", {"c": 10}), flat("a")) == "flat/abc"
    assert base_of("ab", flat("ab"), chain("ab")) == "chain/ab"


def test_there_is_no_base_where_beginning_with_nothing_costs_no_more() -> None:
    """Nothing shared, or more to undo than is shared."""
    assert base_of("ax", flat("ba"), chain("x")) == ""
    assert base_of("ax", flat("abc")) == ""
    assert base_of("a") == ""


def test_other_files_make_no_base() -> None:
    """A tree with container files of another version holds what this one does not know."""
    assert base_of("ab", Known(Path("old"), mark("ab", apptainer=VERSION + 1), Digest.of(b""))) == ""


@pytest.mark.parametrize(
    ("known", "length"),
    [
        ((flat("abc", {"c": 50}),), None),
        ((flat("abc", {"a": 500, "c": 60}),), 2),
        ((flat("abc", {"a": 500, "c": 60}), chain("ab")), None),
        ((flat("ab"),), None),
        ((flat("abxy"),), None),
        ((), None),
    ],
)
def test_a_chain_is_kept_where_undoing_costs_too_much(known: tuple[Known, ...], length: int | None) -> None:
    """Not for what is small, is a tree already, is the whole image, or is nobody else's."""
    assert find_chain(mark("abx", {"a": 500}), known, worth=60) == length


def test_a_chain_of_an_image_is_its_beginning() -> None:
    """Without the files of a container."""
    assert shortened(mark("abc"), 2) == mark("ab", apptainer=0)


def test_marks_are_read_as_they_were_written() -> None:
    """Byte for byte the same each time; another version is passed over, what is none refused."""
    assert Mark.parse(mark("ab").encode(), "x") == mark("ab")
    assert Mark.parse(mark("ab").encode().replace(b'"version":1', b'"version":2'), "x") is None
    for content in (b"", b"{}", b"[" * 100_000, mark("ab").encode().replace(b"[100,100]", b"[100]")):
        with pytest.raises(DataLoss):
            Mark.parse(content, "x")


def test_only_trees_that_are_there_are_known(tmp_path: Path) -> None:
    """A mark without its tree, a damaged one and a stray file are passed over."""
    layout, one, two, three = Layout(tmp_path), Digest.of(b"1"), Digest.of(b"2"), Digest.of(b"3")
    for path in (layout.flat_mark(one), layout.flat_mark(two), layout.chain_mark(three)):
        path.parent.mkdir(parents=True)
        path.write_bytes(mark("ab").encode())
    layout.flat_mark(one).with_name("stray").touch()
    layout.flat(one).mkdir(parents=True)
    layout.chain(three).mkdir(parents=True)
    assert [known.final for known in walk_known(layout)] == [layout.chain(three), layout.flat(one)]
    layout.flat_mark(one).write_bytes(b"damaged")
    assert [known.final for known in walk_known(layout)] == [layout.chain(three)]
