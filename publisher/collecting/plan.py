"""What of a repository goes now, what later, and what stays although no name leads to it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from publisher.collecting.expiry import Expired
from publisher.collecting.reachable import LINKED, PUBLISHED, Kept, things_of
from publisher.collecting.survey import Kind, Survey, Thing

_DAY = 86400.0


class Fate(msgspec.Struct, frozen=True):
    """One thing of the report. `fate` is goes, waits (for its grace period) or stays; `bytes` are what its removal
    gives or would give back, hard links once; `unreachable_since` in seconds since 1970, None where it is kept."""

    kind: str
    name: str
    fate: str
    bytes: int
    reason: str
    unreachable_since: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What of a survey `goes`, in the order of removal, and what `waits`; `since` are the times of both."""

    survey: Survey
    kept: Kept
    since: Mapping[str, float]
    expired: tuple[Expired, ...]
    goes: tuple[Thing, ...]
    waits: tuple[Thing, ...]

    @property
    def unnamed(self) -> tuple[Thing, ...]:
        """What stays although no name leads to it, sorted."""
        named = (PUBLISHED, LINKED)
        found = (thing for thing in things_of(self.survey) if self.kept.get(thing, PUBLISHED) not in named)
        return tuple(sorted(found, key=_order))

    def reason_of(self, thing: Thing, now: float) -> str:
        if over := next((one for one in self.expired if (thing.kind, thing.name) == (Kind.NAME, one.name)), None):
            return f"expired by {over.rule}"
        if thing in self.kept:
            return self.kept[thing]
        return f"unreachable for {(now - self.since[thing.key]) / _DAY:.1f} days"


def planned(
    survey: Survey, kept: Kept, since: Mapping[str, float], expired: tuple[Expired, ...], grace: float, now: float
) -> Plan:
    """`kept` is by the names that have not expired, `since` tells of all that is not kept; `grace` in days."""
    over = {Thing(Kind.NAME, one.name) for one in expired}
    loose = [thing for thing in things_of(survey) if thing not in kept]
    goes = [thing for thing in loose if thing in over or now - since[thing.key] >= grace * _DAY]
    waits = [thing for thing in loose if thing not in {*goes}]
    return Plan(survey, kept, since, expired, tuple(sorted(goes, key=_order)), tuple(sorted(waits, key=_order)))


def _order(thing: Thing) -> tuple[int, str]:
    return thing.kind.order, thing.name
