"""A wish list in DUCC's YAML, version 1: parsed once, every problem told at once with its line and column.

DUCC passes over keys that it does not know, so what is ours stands below the one key `cvmfs-publisher`. The text is
composed into nodes and never made into objects; nodes are looked at three levels deep, so an alias costs nothing.
"""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import yaml

from cvmfsrepo.errors import ContractError, InvalidArgument
from cvmfsrepo.oci import Platform
from publisher.source import parse_platform
from publisher.wishes.wish import Wish

LIMIT = 8 << 20
"""Bytes of a recipe."""

OURS = "cvmfs-publisher"
_KEYS = ("version", "user", "cvmfs_repo", "output_format", "input", OURS)
_OUR_KEYS = ("platforms", "expire-days", "flat", "podman-store")
_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


class Problem(NamedTuple):
    """Something wrong at a line and column, both from 1."""

    line: int
    column: int
    text: str


class RecipeError(InvalidArgument):
    """A recipe that cannot be used: all its `lines`, each as `file:line:column: what is wrong`."""

    def __init__(self, name: str, problems: Sequence[Problem]) -> None:
        self.lines = tuple(f"{name}:{p.line}:{p.column}: {p.text}" for p in sorted(problems))
        super().__init__("recipe", name, "; ".join(self.lines) or "cannot be used", "mend the lines that are named")


@dataclass(frozen=True, slots=True)
class Options:
    """What is ours. The first platform is published under the image's own name; None where nothing is said."""

    platforms: tuple[Platform, ...] = (Platform("linux", "amd64"),)
    expire_days: int | None = None
    flat: bool | None = None
    podman_store: bool | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """A wish list. `notes` are for the operator: what was accepted and has no effect."""

    name: str
    cvmfs_repo: str
    user: str
    wishes: tuple[Wish, ...]
    options: Options
    notes: tuple[str, ...]


def parse_recipe(content: bytes, name: str) -> Recipe:
    """A recipe; `name` stands before each problem. RecipeError with all of them."""
    root = _composed(content, name)
    if not isinstance(root, yaml.MappingNode):
        raise RecipeError(name, [_problem(root, "is no mapping: write version:, cvmfs_repo: and input:")])
    reading = _Reading()
    keys = dict(reading.entries(root, _KEYS))
    reading.require(root, keys)
    recipe = Recipe(
        name=name,
        cvmfs_repo=reading.text(keys.get("cvmfs_repo")),
        user=reading.text(keys.get("user")),
        wishes=tuple(reading.wishes(keys.get("input"))),
        options=reading.options(keys.get(OURS)),
        notes=(),
    )
    if "output_format" in keys:
        reading.note(keys["output_format"], "output_format is not used: no thin images are made")
    if reading.problems:
        raise RecipeError(name, reading.problems)
    notes = tuple(f"{name}:{p.line}:{p.column}: {p.text}" for p in sorted(reading.notes))
    return Recipe(recipe.name, recipe.cvmfs_repo, recipe.user, recipe.wishes, recipe.options, notes)


def _composed(content: bytes, name: str) -> yaml.Node | None:
    if len(content) > LIMIT:
        raise RecipeError(name, [Problem(1, 1, f"has {len(content)} bytes, too many for a recipe")])
    try:
        return yaml.compose(content, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise RecipeError(name, [Problem(*place, f"is not YAML: {error.problem or error.context}")]) from None
    except (yaml.YAMLError, ValueError, IndexError) as error:
        raise RecipeError(name, [Problem(1, 1, f"is not YAML: {' '.join(str(error).split())}")]) from None
    except RecursionError:
        raise RecipeError(name, [Problem(1, 1, "is nested too deeply")]) from None


@dataclass(slots=True)
class _Reading:
    """Nodes -> values; what is wrong is collected."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)

    def entries(self, node: yaml.MappingNode, known: Sequence[str]) -> Iterator[tuple[str, yaml.Node]]:
        """The known keys of a mapping, each once."""
        seen = set[str]()
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            if name not in known:
                near = difflib.get_close_matches(name, known, 1, 0.5)
                meant = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
                self.problem(key, f"unknown key {_short(name)}: {meant}")
            elif name in seen:
                self.problem(key, f"key {name} stands twice")
            else:
                seen.add(name)
                yield name, value

    def require(self, root: yaml.Node, keys: dict[str, yaml.Node]) -> None:
        for name in ("version", "input"):
            if name not in keys:
                self.problem(root, f"key {name} is missing")
        if "version" in keys and self.text(keys["version"]) != "1":
            self.problem(keys["version"], "version is not 1, the only one there is")

    def text(self, node: yaml.Node | None) -> str:
        if node is None:
            return ""
        if not isinstance(node, yaml.ScalarNode):
            self.problem(node, "is not a text")
            return ""
        return str(node.value)

    def wishes(self, node: yaml.Node | None) -> Iterator[Wish]:
        """Each wish once, in the order of the list."""
        seen = dict[Wish, int]()
        for item in self.items(node, "input"):
            try:
                wish = Wish.parse(self.text(item))
            except ContractError as error:
                self.problem(
                    item, f"{_short(error.value)} {error.problem}" + (f"; {error.remedy}" * bool(error.remedy))
                )
                continue
            if wish in seen:
                self.note(item, f"{wish} stands in line {seen[wish]} already")
                continue
            seen[wish] = item.start_mark.line + 1
            yield wish

    def items(self, node: yaml.Node | None, key: str) -> Sequence[yaml.Node]:
        """The texts of the list below `key`. One that is no list counts as empty, and both that and what in it is no
        text is a problem."""
        if isinstance(node, yaml.SequenceNode):
            texts = [item for item in node.value if isinstance(item, yaml.ScalarNode)]
            for item in node.value:
                if not isinstance(item, yaml.ScalarNode):
                    self.problem(item, f"{key} holds something that is not a text")
            return texts
        if node is not None:
            self.problem(node, f"{key} is no list")
        return ()

    def options(self, node: yaml.Node | None) -> Options:
        """What stands below our own key."""
        if node is None:
            return Options()
        if not isinstance(node, yaml.MappingNode):
            self.problem(node, f"{OURS} is no mapping: known are {', '.join(_OUR_KEYS)}")
            return Options()
        keys = dict(self.entries(node, _OUR_KEYS))
        return Options(
            platforms=tuple(dict.fromkeys(self.platforms(keys.get("platforms")))) or Options().platforms,
            expire_days=self.days(keys.get("expire-days")),
            flat=self.truth(keys.get("flat")),
            podman_store=self.truth(keys.get("podman-store")),
        )

    def platforms(self, node: yaml.Node | None) -> Iterator[Platform]:
        for item in self.items(node, "platforms"):
            try:
                yield parse_platform(self.text(item))
            except ContractError as error:
                self.problem(item, f"{_short(error.value)} {error.problem}; {error.remedy}")

    def days(self, node: yaml.Node | None) -> int | None:
        text = self.text(node)
        if node is None:
            return None
        if not (text.isascii() and text.isdecimal() and len(text) < 6 and int(text) > 0):
            self.problem(node, f"expire-days is {_short(text)}, and not a number of days from 1 to 99999")
            return None
        return int(text)

    def truth(self, node: yaml.Node | None) -> bool | None:
        text = self.text(node).lower()
        if node is not None and text not in _TRUTH:
            self.problem(node, f"{_short(text)} is neither yes nor no")
        return _TRUTH.get(text)

    def problem(self, node: yaml.Node | None, text: str) -> None:
        self.problems.append(_problem(node, text))

    def note(self, node: yaml.Node, text: str) -> None:
        self.notes.append(_problem(node, text))


def _problem(node: yaml.Node | None, text: str) -> Problem:
    return Problem(node.start_mark.line + 1, node.start_mark.column + 1, text) if node else Problem(1, 1, text)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}..."
