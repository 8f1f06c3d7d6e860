"""Lists of registries: in pages, with marks, and never without an end."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from cvmfsrepo.errors import ContractError, DataLoss, NotFound, PermissionDenied, Unavailable
from publisher.registry import lists
from publisher.registry.registries import Registries
from publisher.wishes.state import StateDirectory
from tests.publisher.registry.standin import Answer, Asked, Standin, listed

TAGS, CATALOG = "/v2/group/image/tags/list?n=1000", "/v2/_catalog?n=1000"


def tags_of(standin: Standin, known: StateDirectory | None = None) -> tuple[str, ...]:
    with Registries(known=known) as registries:
        return registries.list_tags(standin.address, "group/image")


def test_pages(registry: Standin) -> None:
    """Each leads to the next, on the same registry, whatever it calls itself."""
    registry.answers[CATALOG] = listed("repositories", "a", "b", following="/v2/_catalog?last=b")
    registry.answers["/v2/_catalog?last=b"] = listed(
        "repositories", "c", following="http://inside.example/v2/_catalog?last=c"
    )
    registry.answers["/v2/_catalog?last=c"] = listed("repositories", "d/e")
    with Registries() as registries:
        assert registries.list_repositories(registry.address) == ("a", "b", "c", "d/e")


def test_nothing_is_a_list_too(registry: Standin) -> None:
    """Registries say null of a repository that has lost its last tag."""
    registry.answers[TAGS] = Answer(b'{"name": "group/image", "tags": null}')
    assert tags_of(registry) == ()


def test_a_name_that_is_none(registry: Standin) -> None:
    """A thousand pages of names of megabytes would not fit into memory."""
    registry.answers[TAGS] = listed("tags", "1", "x" * 257)
    with pytest.raises(DataLoss, match="that is none"):
        tags_of(registry)


def test_a_list_that_did_not_change(registry: Standin, tmp_path: Path) -> None:
    """Each page is asked for with its mark, also by a later process, and costs no more than that."""
    pages = {
        TAGS: listed("tags", "1", "2", following=f"{TAGS}&last=2", ETag='"one"'),
        f"{TAGS}&last=2": listed("tags", "3", ETag='W/"two"'),
    }

    def serve(asked: Asked) -> Answer:
        page = pages[asked.path]
        same = asked.headers.get("If-None-Match") == page.headers.get("ETag")
        return Answer(status=304) if same else page

    registry.answers |= dict.fromkeys(pages, serve)
    first = tags_of(registry, StateDirectory.at(tmp_path / "state"))
    again = tags_of(registry, StateDirectory.at(tmp_path / "state"))
    assert first == again == ("1", "2", "3")
    assert [asked.headers.get("If-None-Match") for asked in registry.asked] == [None, None, '"one"', 'W/"two"']
    pages[f"{TAGS}&last=2"] = listed("tags", "4", ETag='"three"')
    assert tags_of(registry, StateDirectory.at(tmp_path / "state")) == ("1", "2", "4")
    assert tags_of(registry, StateDirectory.at(tmp_path / "state")) == ("1", "2", "4")
    assert registry.asked[-1].headers.get("If-None-Match") == '"three"'


def test_a_mark_that_is_damaged_costs_a_look(registry: Standin, tmp_path: Path) -> None:
    """The file is put aside."""
    registry.answers[TAGS] = listed("tags", "1", ETag='"one"')
    known = StateDirectory.at(tmp_path / "state")
    tags_of(registry, known)
    (path,) = (known.root / "lists").iterdir()
    path.write_bytes(b"\xff")
    assert tags_of(registry, known) == ("1",)
    assert known.damaged == [path.with_suffix(".damaged")]


def test_a_circle_of_pages(registry: Standin) -> None:
    """It is refused when a page comes again."""
    registry.answers[TAGS] = listed("tags", "1", following=f"{TAGS}&last=1")
    registry.answers[f"{TAGS}&last=1"] = listed("tags", "2", following=TAGS)
    with pytest.raises(DataLoss, match="from page to page for ever"):
        tags_of(registry)
    assert len(registry.asked) == 2


def test_a_list_of_a_million_names(registry: Standin) -> None:
    """It is too much, in one page or in many."""
    registry.answers[TAGS] = listed("tags", *map(str, range(1_000_000)))
    with pytest.raises(DataLoss, match="more than 100000 names"):
        tags_of(registry)

    def page(asked: Asked) -> Answer:
        registry.answers.setdefault(f"{asked.path}0", page)
        return listed("tags", *map(str, range(lists.NAMES_LIMIT // 10 + 1)), following=f"{asked.path}0")

    registry.answers[TAGS] = page
    registry.asked.clear()
    with pytest.raises(DataLoss, match="more than 100000 names"):
        tags_of(registry)
    assert len(registry.asked) == 10


def test_a_page_that_is_too_large(registry: Standin) -> None:
    """It is not read to its end."""
    registry.answers[TAGS] = Answer(b'{"tags": [' + b" " * (17 << 20) + b"]}")
    with pytest.raises(DataLoss, match="more than 16777216 bytes"):
        tags_of(registry)


@pytest.mark.parametrize(
    "content", [b"", b"<html>", b'{"tags": ["1"', b'{"tags": {}}', b'{"tags": [1]}', b"[]", b"3", b"\xff", b"[" * 99999]
)
def test_a_list_that_is_none(registry: Standin, content: bytes) -> None:
    """The error names the registry, what was asked for, and what came."""
    registry.answers[TAGS] = Answer(content, headers={"Content-Type": "text/html"})
    words = f"registry '{registry.address}'.*list of tags.*group/image/tags/list.*that is none.*text/html"
    with pytest.raises(DataLoss, match=words):
        tags_of(registry)


def test_a_next_page_that_is_elsewhere(registry: Standin) -> None:
    """A list is whole or an error."""
    registry.answers[TAGS] = listed("tags", "1", following="https://registry.example/more")
    with pytest.raises(DataLoss, match="next page is not below /v2/"):
        tags_of(registry)


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, PermissionDenied), (403, PermissionDenied), (404, NotFound), (405, PermissionDenied), (500, Unavailable)],
)
def test_a_catalogue_that_is_not_given_out(registry: Standin, status: int, error: type[ContractError]) -> None:
    """Many registries give theirs to administrators only: the error says what to do."""
    registry.answers[CATALOG] = Answer(status=status)
    remedy = "wish for each repository by its name" if status < 500 else "try again later"
    with Registries() as registries, pytest.raises(error, match=re.escape(remedy)):
        registries.list_repositories(registry.address)


def test_a_list_that_ends_early(registry: Standin) -> None:
    """Bytes that are missing are not taken for the end."""
    page = listed("tags", "1")
    registry.answers[TAGS] = replace(page, length=len(page.content) + 10)
    with pytest.raises(Unavailable):
        tags_of(registry)
