"""Whose time is over: by rules, by what is wished for, by when it was."""

import math

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import InvalidArgument
from publisher.collecting.expiry import Rule, expired, parse_wished
from publisher.collecting.survey import Name
from tests.publisher.collecting.shelves import DAY, rules

NOW = 1000 * DAY


def over(*names: Name, by: str | tuple[str, ...] = "*=10", wished: tuple[str, ...] = (), last: float = 0) -> list[str]:
    given = rules(*([by] if isinstance(by, str) else by))
    return [one.name for one in expired(names, given, wished, {"r.example/a:1": last}, NOW)]


def aged(name: str, days: float) -> Name:
    return Name(name, published=NOW - days * DAY)


def test_a_rule_counts_from_publication() -> None:
    """To the day."""
    assert over(aged("r.example/a:1", 10), aged("r.example/b:1", 9.9)) == ["r.example/a:1"]


def test_the_first_rule_that_matches_decides() -> None:
    """And what none matches stays."""
    names = aged("r.example/user/a:1", 50), aged("r.example/team/b:1", 50), aged("other.example/c:1", 50)
    assert over(*names, by=("*/team/*=never", "r.example/*=10")) == ["r.example/user/a:1"]


def test_the_last_wish_counts_too() -> None:
    """Its time begins when it was last wished for."""
    assert over(aged("r.example/a:1", 50), last=NOW - 5 * DAY) == []
    assert over(aged("r.example/a:1", 50), last=NOW - 11 * DAY) == ["r.example/a:1"]


def test_what_is_wished_for_stays_with_its_platforms() -> None:
    """The others of its image index stand under digests; those of another image's do not count."""
    arm, other = Digest.of(b"arm"), Digest.of(b"other")
    image = Name("r.example:5000/a:1", published=0, platforms=frozenset({arm}))
    names = image, aged(f"r.example:5000/a@{arm}", 50), aged(f"r.example:5000/a@{other}", 50)
    assert over(*names, wished=("r.example:5000/a:1",)) == [f"r.example:5000/a@{other}"]


@pytest.mark.parametrize("text", ["", "a", "a=", "=3", "a=0", "a=-1", "a=x", "a=nan"])
def test_a_bad_rule_is_refused(text: str) -> None:
    """Before anything is looked at."""
    with pytest.raises(InvalidArgument, match="PATTERN=DAYS"):
        Rule.parse(text)


def test_a_rule_reads_as_it_was_written() -> None:
    """A pattern may hold the sign itself."""
    assert str(Rule.parse("a=b*=1.5")) == "a=b*=1.5"
    assert Rule.parse("x=never") == Rule("x", math.inf)


def test_a_list_of_wishes() -> None:
    """One reference a line, as they are published; a line that is none is an error."""
    text = "# wanted\nr.example/a:1\n\nubuntu\n"
    assert parse_wished(text) == {"r.example/a:1", "docker.io/library/ubuntu:latest"}
    with pytest.raises(InvalidArgument):
        parse_wished("r.example/a b")
