"""docs/operations.md is typed on real nodes, so that it cannot rot; and how the page is read."""

import re
from collections.abc import Iterator

import pytest

from snapshotter.cli.main import COMMANDS
from tests.cli.operations import (
    PAGE,
    Answered,
    Chapter,
    Event,
    Typed,
    chapters,
    likened,
    matches,
    play,
    rewritten,
    unshown,
)
from tests.cli.operations_node import World, world
from tests.mounting import needs_fuse, needs_root

CHAPTERS = chapters(PAGE.read_text())


@pytest.fixture(scope="module")
def place() -> Iterator[World]:
    """Registry and repository of all chapters."""
    needs_root()
    needs_fuse()
    with world() as place:
        yield place


@pytest.mark.engine
@pytest.mark.fuse
@pytest.mark.root
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.title)
def test_the_page_is_true(place: World, chapter: Chapter) -> None:
    """A node that is asked what the page asks, in its order, answers what the page shows."""
    with place.node() as node:
        answers = play(chapter, node.happen, node.type)
    for one in answers:
        shown, said = (list(map(likened, lines)) for lines in (one.typed.answer, one.lines))
        assert one.is_as_shown or said == shown, f"line {one.typed.line}: {one.typed.command}"
    assert not unshown(answers)


def test_each_command_is_on_the_page() -> None:
    """Those of `--help` are typed in some chapter, and stand in the table of all; `serve` is what systemd starts, and
    `node-labels` Kubernetes."""
    typed = {step.command for chapter in CHAPTERS for step in chapter.steps if isinstance(step, Typed)}
    table = PAGE.read_text().partition("## All commands")[2]
    for name in COMMANDS:
        is_started = name in ("serve", "node-labels")
        assert is_started or any(re.search(rf"\bcvmfs-snapshotter {name}\b", line) for line in typed), name
        assert re.search(rf"^\| `{name}[ `]", table, re.MULTILINE), name


def test_chapters_are_read() -> None:
    """Events and commands in their order, an answer up to the next prompt; a chapter without commands is none."""
    text = "## One\n<!-- node: install -->\n```console\nnode# a \\\n  b\nx\ny\nnode# c\n```\n## Two\n```sh\nd\n```\n"
    (chapter,) = chapters(text)
    assert chapter == Chapter("One", (Event("install"), Typed("a \\\n  b", ("x", "y"), 5, 7), Typed("c", (), 8, 8)))


@pytest.mark.parametrize(
    ("shown", "said", "same"),
    [
        (["a  sha256:0123456789ab", "3 s ago"], ["a sha256:ba9876543210", "2 min 1 s ago"], True),
        (["24.0 MB of revision 41"], ["7 B of revision 41"], True),
        (["revision 41"], ["revision 42"], False),
        (["a", "...", "d"], ["a", "b", "c", "d"], True),
        (["a", "...", "d"], ["a", "d"], True),
        (["a", "...", "d"], ["a", "b"], False),
        (["a"], ["a", "b"], False),
        (["a", "b"], ["b", "a"], True),
        (["in 1.1 s"], ["in 0.9 s"], True),
        (["a: there now"], ["a: first seen 2026-11-21 12:07:54 UTC, in revision 42, 0 s ago"], True),
        (["a: there now"], ["a: no repository holds it"], False),
        (["shims   8"], ["shims  9"], True),
        (["exit status 3"], ["exit status 0"], False),
    ],
)  # fmt: skip
def test_answers_are_compared_by_what_they_mean(shown: list[str], said: list[str], same: bool) -> None:
    """Digests, times and sizes differ from node to node; words and numbers that are facts do not."""
    assert matches(shown, said) is same


def test_a_page_is_written_anew_where_it_is_no_longer_true() -> None:
    """Other answers stay as they are, with what is left out."""
    text = "## One\n```console\nnode# a\n1\n...\nnode# b\nold\nnode# c\n```\n"
    (chapter,) = chapters(text)
    said = {"a": (0, "1\n2\n"), "b": (0, "new\nnewer\n"), "c": (3, "")}
    answers = play(chapter, lambda words: None, said.__getitem__)
    assert rewritten(text, answers) == text.replace("old", "new\nnewer")
    assert [one.typed.command for one in unshown(answers)] == ["c"]
    assert isinstance(answers[0], Answered)


def test_a_status_is_shown() -> None:
    """By `echo $?`, as a person asks for it."""
    (chapter,) = chapters("## One\n```console\nnode# a\nnode# echo $?\n3\n```\n")
    answers = play(chapter, lambda words: None, lambda command: (3, ""))
    assert [one.is_as_shown for one in answers] == [True, True]
    assert unshown(answers) == []
