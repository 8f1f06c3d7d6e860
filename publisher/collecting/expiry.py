"""Which images' time is over. Pure: names with their times, and rules -> names with the rule that applies.

A name's time is counted from when what stands under it was first published, or from when it was last wished for. The
first rule whose pattern matches decides; a name that none matches never expires, nor does one that is wished for, nor
the other platforms of one.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Self

from cvmfsrepo.errors import InvalidArgument
from cvmfsrepo.oci import Reference
from publisher.collecting.survey import Name

_DAY = 86400.0
_NEVER = "never"


@dataclass(frozen=True, slots=True)
class Rule:
    """Images whose reference matches the shell pattern (`*` stands for slashes too) expire after so many days."""

    pattern: str
    days: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """`PATTERN=DAYS`; `never` for days exempts what a later rule would match."""
        pattern, _, days = text.rpartition("=")
        try:
            number = math.inf if days == _NEVER else float(days)
        except ValueError:
            number = 0
        if not pattern or not number > 0:
            raise InvalidArgument("expiry", text, "is not PATTERN=DAYS with days above 0, or PATTERN=never")
        return cls(pattern, number)

    def __str__(self) -> str:
        return f"{self.pattern}={_NEVER if math.isinf(self.days) else format(self.days, 'g')}"


@dataclass(frozen=True, slots=True)
class Expired:
    """A name whose time is over since `at`, in seconds since 1970, by a rule."""

    name: str
    rule: Rule
    at: float


def expired(
    names: Iterable[Name],
    rules: Collection[Rule],
    wished: Collection[str],
    last_wished: Mapping[str, float],
    now: float,
) -> tuple[Expired, ...]:
    """`wished` are names that are wished for now, `last_wished` when others last were, or when something was pushed
    under them."""
    found = [*names]
    platforms = {
        (_repository(name.name), str(digest)) for name in found if name.name in wished for digest in name.platforms
    }
    over = list[Expired]()
    for name in found:
        repository, at, digest = name.name.partition("@")
        rule = next((rule for rule in rules if fnmatchcase(name.name, rule.pattern)), None)
        if rule is None or name.name in wished or (at and (repository, digest) in platforms):
            continue
        end = max(name.published, last_wished.get(name.name, 0)) + rule.days * _DAY
        if end <= now:
            over.append(Expired(name.name, rule, end))
    return tuple(over)


def name_of(reference: Reference) -> str:
    """What an image is called in a repository."""
    return f"{reference.registry}/{reference.repository}{reference.suffix}"


def parse_wished(text: str) -> frozenset[str]:
    """The names of a list, one reference a line; empty lines and those that begin with # are passed over."""
    lines = (line.strip() for line in text.splitlines())
    return frozenset(name_of(Reference.parse(line)) for line in lines if line and not line.startswith("#"))


def _repository(name: str) -> str:
    """Without tag or digest."""
    head, at, _ = name.partition("@")
    return head if at else name.rpartition(":")[0]
