"""docs/operations.md as a script: its chapters, what is typed in them, and what the page says that a node answers.

What is typed stands in ```console blocks behind the prompt `node# `; the lines up to the next prompt are the answer,
in which a line `...` stands for any lines. `<!-- node: WORDS -->` is what happens to the node in between, which a
reader does not see (see `tests.cli.operations_node`). A status other than 0 is shown: `echo $?` comes next.

Two answers are equal if they are the same but for what differs from node to node and from day to day: `likened`.

`python -m tests.cli.operations` types the page on a node and writes the answers that are no longer so.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "docs" / "operations.md"
PROMPT = "node# "
ELLIPSIS = "..."

_EVENT = re.compile(r"<!-- node: (.*) -->")
_LIKENED = (
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?( UTC|Z)?"), "TIME"),
    (re.compile(r"\bbefore-\d{8}T\d{6}\b"), "before-TIME"),
    (re.compile(r"less than a minute old"), "LONG old"),
    (re.compile(r"\b\d+(\.\d+)? (d|h|min|s)( \d+ (h|min|s))?\b"), "LONG"),
    (re.compile(r"\b\d+(\.\d+)? ([KMGTP]?B|[KMGT]iB)\b"), "SIZE"),
    (re.compile(r"\b\d+(\.\d+)? of (?=\d+(\.\d+)? GiB|SIZE)"), "SIZE of "),
    (re.compile(r"\b\d+ warnings?\b"), "N warnings"),
    (re.compile(r"\b\d+ inodes\b"), "INODES"),
    (re.compile(r"\bprocess \d+\b"), "process N"),
    (re.compile(r"\b\d+ (entries|files|directories)\b"), r"N \1"),
    (re.compile(r"\b(?=[a-f]*\d)[0-9a-f]{12,64}\b"), "HEX"),
    (re.compile(r"\bk8s\.io/\d+/"), "k8s.io/N/"),
    (re.compile(r"\bcvmfs-snapshotter, version \S+|\bversion +\d\S+"), "version"),
    (re.compile(r"\bcontainerd v?\d+\.\d+\.\d\S*"), "containerd V"),
    (re.compile(r"(?<=sock, )v?\d+\.\d+\.\d\S*(?=:)"), "V"),
    (re.compile(r"\bLinux \d\S*"), "Linux V"),
    (re.compile(r"\b(on|in) (ext4|xfs|btrfs|tmpfs|overlay)\b"), "on DISK"),
    (re.compile(r"(?<=snapshots/)\d+"), "N"),
    (re.compile(r"\bshims +\d+"), "shims N"),
    (re.compile(r"\b(there now|first seen TIME, in revision \d+, LONG ago)$"), "there"),
    (re.compile(r" +"), " "),
)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens to the node."""

    words: str


@dataclass(frozen=True, slots=True)
class Typed:
    """One command, and the answer that the page shows; `line` and `end` are those of the answer, from 0."""

    command: str
    answer: tuple[str, ...]
    line: int
    end: int


@dataclass(frozen=True, slots=True)
class Chapter:
    """A chapter is a story of its own, on a node of its own."""

    title: str
    steps: tuple[Event | Typed, ...]


@dataclass(frozen=True, slots=True)
class Answered:
    """What a node answered."""

    typed: Typed
    status: int
    lines: tuple[str, ...]

    @property
    def is_as_shown(self) -> bool:
        return matches(self.typed.answer, self.lines)


def chapters(text: str) -> list[Chapter]:
    """Those in which something is typed."""
    found: list[tuple[str, list[Event | Typed]]] = [("", [])]
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        if lines[at].startswith("## "):
            found.append((lines[at].removeprefix("## "), []))
        elif event := _EVENT.fullmatch(lines[at]):
            found[-1][1].append(Event(event[1]))
        elif lines[at] == "```console":
            end = lines.index("```", at)
            found[-1][1].extend(_typed(lines, at + 1, end))
            at = end
        at += 1
    return [Chapter(title, tuple(steps)) for title, steps in found if any(isinstance(step, Typed) for step in steps)]


def _typed(lines: Sequence[str], start: int, end: int) -> Iterator[Typed]:
    prompts = [at for at in range(start, end) if lines[at].startswith(PROMPT)]
    assert prompts[:1] == [start], f"line {start + 1}: a block begins with what is typed"
    for at, following in zip(prompts, [*prompts[1:], end], strict=True):
        first = at + 1
        while lines[first - 1].endswith("\\"):
            first += 1
        command = "\n".join(lines[at:first]).removeprefix(PROMPT)
        yield Typed(command, tuple(lines[first:following]), first, following)


def matches(shown: Sequence[str], said: Sequence[str]) -> bool:
    """Whether an answer is as the page shows it. A whole answer may have its lines in another order: containers come
    by their ids."""
    wanted, have = [likened(line) for line in shown], [likened(line) for line in said]
    return _match(wanted, have) if ELLIPSIS in wanted else sorted(wanted) == sorted(have)


def _match(wanted: Sequence[str], have: Sequence[str]) -> bool:
    if not wanted:
        return not have
    if wanted[0] == ELLIPSIS:
        return any(_match(wanted[1:], have[at:]) for at in range(len(have) + 1))
    return bool(have) and wanted[0] == have[0] and _match(wanted[1:], have[1:])


def likened(line: str) -> str:
    """A line without digests, times, sizes, versions and the width of columns."""
    for pattern, instead in _LIKENED:
        line = pattern.sub(instead, line)
    return line.rstrip()


def rewritten(text: str, answers: Sequence[Answered]) -> str:
    """The page with the answers of a node, where they are not as shown."""
    lines = text.splitlines()
    for answered in sorted(answers, key=lambda one: one.typed.line, reverse=True):
        if not answered.is_as_shown:
            lines[answered.typed.line : answered.typed.end] = answered.lines
    return "\n".join(lines) + "\n"


def write_page(page: Path, answers: Sequence[Answered]) -> None:
    """Writes the answers that are not as shown, and says which."""
    for one in answers:
        if not one.is_as_shown:
            print(f"line {one.typed.line}: {one.typed.command}: status {one.status}")
    page.write_text(rewritten(page.read_text(), answers))


def play(chapter: Chapter, happen: Callable[[str], None], type_it: Callable[[str], tuple[int, str]]) -> list[Answered]:
    """A chapter from its begin to its end."""
    answers: list[Answered] = []
    status = 0
    for step in chapter.steps:
        if isinstance(step, Event):
            happen(step.words)
            continue
        if step.command == "echo $?":
            said = f"{status}\n"
        else:
            status, said = type_it(step.command)
        answers.append(Answered(step, status, tuple(line.rstrip() for line in said.splitlines())))
    return answers


def unshown(answers: Sequence[Answered]) -> list[Answered]:
    """Commands whose status is not 0, though the page does not show it."""
    following = [*answers[1:], None]
    return [
        one for one, after in zip(answers, following, strict=True)
        if one.status and one.typed.command != "echo $?" and (after is None or after.typed.command != "echo $?")
    ]  # fmt: skip


def main() -> None:
    """Types all chapters and writes the page."""
    from tests.cli.operations_node import world

    answers = []
    with world() as place:
        for chapter in chapters(PAGE.read_text()):
            with place.node() as node:
                answers += play(chapter, node.happen, node.type)
    write_page(PAGE, answers)


if __name__ == "__main__":
    main()
