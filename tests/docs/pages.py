"""The project's pages, and the blocks in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
PROMPT = "node# "


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its page by its path in the project, its language and its text."""

    page: str
    language: str
    text: str

    @property
    def commands(self) -> tuple[str, ...]:
        """What is typed: every line of `sh`, the lines behind a prompt of `console`. Lines that go on are joined, and
        comments are no commands."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line.removeprefix(PROMPT) for line in lines if line.startswith(PROMPT)]
        return tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))


def page_paths() -> list[Path]:
    """Every page that a user reads."""
    return [*sorted(PROJECT.glob("*.md")), *sorted((PROJECT / "docs").rglob("*.md"))]


def walk_blocks() -> Iterator[Block]:
    """Every block of every page."""
    for path in page_paths():
        for language, text in _BLOCK.findall(path.read_text()):
            yield Block(path.relative_to(PROJECT).as_posix(), language, text)


def typed() -> list[tuple[str, str]]:
    """Every command, with its page."""
    return [
        (block.page, line) for block in walk_blocks() if block.language in ("sh", "console") for line in block.commands
    ]
