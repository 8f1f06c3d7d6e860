"""containerd's filter grammar, as List receives it.

    filter   := selector ("," selector)*              every selector must hold; of several filters, one
    selector := path (("==" | "!=" | "~=") value)?    a path alone asks whether the field is there
    path     := part ("." part)*
    part     := quoted | [-_A-Za-z0-9]+
    value    := quoted | a run of printable characters without white space and comma
    quoted   := a Go string between double quotes; for "~=" also between slashes or bars

Taken and refused as by containerd's own parser: white space may stand before a token, but not before a comma or
a dot; a bare value cannot begin with one of `. = ! ~ " / |`; a backquote quotes nothing.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from cvmfsrepo.errors import InvalidArgument
from snapshotter.patterns import compile_pattern


class Operator(Enum):
    """How a selector compares; the value is its spelling."""

    PRESENT = ""
    EQUAL = "=="
    NOT_EQUAL = "!="
    MATCHES = "~="


class Labelled(Protocol):
    """A kind of snapshot, as a filter spells it: active, view or committed."""

    @property
    def label(self) -> str: ...


class Filterable(Protocol):
    """What a filter looks at."""

    @property
    def name(self) -> str: ...

    @property
    def parent(self) -> str: ...

    @property
    def kind(self) -> Labelled: ...

    @property
    def labels(self) -> Mapping[str, str]: ...


def field(info: Filterable, path: Sequence[str]) -> tuple[str, bool]:
    """A field's value and whether it is there, by containerd's rule.

    Name, parent and kind always are there, also when empty. A label's name is the rest of the path joined by dots,
    so `labels.a.b` and `labels."a.b"` are the same. No other field exists.
    """
    match path[0]:
        case "name":
            return info.name, True
        case "parent":
            return info.parent, True
        case "kind":
            return info.kind.label, True
        case "labels":
            label = ".".join(path[1:])
            return info.labels.get(label, ""), label in info.labels
    return "", False


@dataclass(frozen=True, slots=True)
class Selector:
    """One condition on one field."""

    path: tuple[str, ...]
    operator: Operator = Operator.PRESENT
    value: str = ""
    pattern: re.Pattern[str] | None = None

    def matches(self, info: Filterable) -> bool:
        """As containerd has it: a field that is not there differs from every value but the empty one."""
        value, present = field(info, self.path)
        match self.operator:
            case Operator.PRESENT:
                return present
            case Operator.EQUAL:
                return present and value == self.value
            case Operator.NOT_EQUAL:
                return value != self.value
            case Operator.MATCHES:
                return self.pattern is not None and self.pattern.search(value) is not None


@dataclass(frozen=True, slots=True)
class Filter:
    """Alternatives, each a conjunction of selectors; an alternative without selectors lets everything pass."""

    alternatives: tuple[tuple[Selector, ...], ...]

    def matches(self, info: Filterable) -> bool:
        """Whether one alternative holds."""
        return any(all(selector.matches(info) for selector in all_of) for all_of in self.alternatives)

    def equalities(self) -> dict[str, str]:
        """What every match is sure to have: "name", "parent", "kind" or "labels.<name>" -> value; maybe nothing.

        For an index: the snapshots with these values are a superset of the matches, so look them up and ask
        `matches` of each. containerd asks `labels."containerd.io/snapshot.ref"==R,parent==P` after every remote
        Prepare, and would otherwise wait for a walk over all snapshots.
        """
        if len(self.alternatives) != 1:
            return {}
        return {".".join(s.path): s.value for s in self.alternatives[0] if s.operator is Operator.EQUAL}


def parse_filters(texts: Sequence[str]) -> Filter:
    """No filter at all, like an empty one, lets everything pass. Raises InvalidArgument, and nothing else."""
    return Filter(tuple(_Reader(text).selectors() if text else () for text in texts) or ((),))


def quote(text: str) -> str:
    """The text as a quoted value, for whoever writes a filter; a lone surrogate has no spelling."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f\ufffd]", lambda found: f"\\u{ord(found[0]):04x}", escaped) + '"'


_GRAMMAR = "write field, field==value, field!=value or field~=pattern, separated by commas"
_SPACE = re.compile(r"\s*")
_PART = re.compile(r"[-_A-Za-z0-9]+")
_VALUE = re.compile(r"[^\s\x00-\x1f\x7f,.=!~\"/|][^\s\x00-\x1f\x7f,]*")
_OPERATOR = re.compile(r"[=!~]+")
_QUOTED = {mark: re.compile(rf"[{mark}]((?:[^\\{mark}\n]|\\[^\n])*)[{mark}]") for mark in '"/|'}
_ESCAPE = re.compile(
    r"""\\(?: (?P<octal>[0-3][0-7]{2}) | x(?P<byte>[0-9A-Fa-f]{2})
      | u(?P<short>[0-9A-Fa-f]{4}) | U(?P<long>[0-9A-Fa-f]{8}) | (?P<char>.) )""",
    re.VERBOSE,
)
_CHARACTERS = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92}


class _Reader:
    """One filter's text and how far it has been read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        # containerd's scanner takes U+FFFD for a decoding error, and no text with a surrogate travels at all.
        if bad := re.search("[\0\ufffd\ud800-\udfff]", text):
            self.at = bad.start()
            raise self.refusal("a character that no filter may hold")

    def refusal(self, problem: str) -> InvalidArgument:
        """The error for what stands here."""
        return InvalidArgument("filter", self.text, f"at character {self.at}: {problem}", _GRAMMAR)

    def selectors(self) -> tuple[Selector, ...]:
        """The whole text."""
        found = [self.selector()]
        while self.at < len(self.text):
            if self.text[self.at] != ",":
                raise self.refusal("expected a comma or the end")
            self.at += 1
            found.append(self.selector())
        return tuple(found)

    def selector(self) -> Selector:
        """A path, and what it is compared with."""
        path = [self.part()]
        while self.text.startswith(".", self.at):
            self.at += 1
            path.append(self.part())
        if self.text[self.at : self.at + 1] in ("", ","):
            return Selector(tuple(path))
        operator = self.operator()
        value = self.value(operator)
        pattern = compile_pattern(value) if operator is Operator.MATCHES else None
        return Selector(tuple(path), operator, value, pattern)

    def part(self) -> str:
        """One part of a path."""
        if quoted := self.quoted('"'):
            return quoted[0]
        if not (bare := _PART.match(self.text, self.at)):
            raise self.refusal("expected a field name, plain or in double quotes")
        self.at = bare.end()
        return bare[0]

    def operator(self) -> Operator:
        """An operator; those signs that stand together are taken together, so "===" is none."""
        self.skip_space()
        signs = _OPERATOR.match(self.text, self.at)
        if not signs or signs[0] not in {"==", "!=", "~="}:
            raise self.refusal('expected one of "==", "!=" and "~="')
        self.at = signs.end()
        return Operator(signs[0])

    def value(self, operator: Operator) -> str:
        """What a field is compared with."""
        if quoted := self.quoted('"/|' if operator is Operator.MATCHES else '"'):
            return quoted[0]
        bare = _VALUE.match(self.text, self.at)
        if not bare:
            raise self.refusal("expected a value; quote one that begins with a sign or holds a space or comma")
        self.at = bare.end()
        return bare[0]

    def quoted(self, marks: str) -> tuple[str] | None:
        """The string in quotes that begins here, in a tuple, for it may be empty; None if none begins here."""
        self.skip_space()
        mark = self.text[self.at : self.at + 1]
        if not mark or mark not in marks:
            return None
        if not (found := _QUOTED[mark].match(self.text, self.at)):
            raise self.refusal("the quoted string does not end")
        content = self.unquoted(found[1], mark)
        self.at = found.end()
        return (content,)

    def unquoted(self, content: str, mark: str) -> str:
        """What a Go string literal stands for. Escapes may spell bytes that are not UTF-8: they come back as
        surrogates, equal to no field.
        """
        spelled = bytearray()
        at = 0
        for escape in _ESCAPE.finditer(content):
            spelled += content[at : escape.start()].encode() + self.escaped(escape, mark)
            at = escape.end()
        return (spelled + content[at:].encode()).decode("utf-8", "surrogateescape")

    def escaped(self, escape: re.Match[str], mark: str) -> bytes:
        """The bytes of one escape sequence."""
        if digits := escape["octal"]:
            return bytes([int(digits, 8)])
        if digits := escape["byte"]:
            return bytes.fromhex(digits)
        if digits := escape["short"] or escape["long"]:
            number = int(digits, 16)
            if number > 0x10FFFF or 0xD800 <= number <= 0xDFFF:
                raise self.refusal(f"{escape[0]} is no character")
            return chr(number).encode()
        if escape["char"] == mark:
            return mark.encode()
        if escape["char"] not in _CHARACTERS:
            raise self.refusal(f"{escape[0]} is no escape sequence of a Go string")
        return bytes([_CHARACTERS[escape["char"]]])

    def skip_space(self) -> None:
        """White space before a token means nothing."""
        if space := _SPACE.match(self.text, self.at):
            self.at = space.end()
