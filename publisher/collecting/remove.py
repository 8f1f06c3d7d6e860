"""Withdraws names, and says what nothing leads to any more. The content is left to `collect`."""

from collections.abc import Collection

import msgspec

from cvmfsrepo.errors import NotFound
from publisher.collecting.collect import without
from publisher.collecting.measure import Ledger
from publisher.collecting.memory import Memory, MemoryFile
from publisher.collecting.plan import Fate
from publisher.collecting.reachable import PUBLISHED, kept_things, things_of
from publisher.collecting.reading import read_survey
from publisher.collecting.survey import Kind, Thing
from publisher.collecting.sweeping import Places, sweep
from publisher.transactions.contract import Target

_LOOSE = "nothing leads to it any more"


class Removal(msgspec.Struct, frozen=True):
    """The names that were withdrawn, and the things that only they led to: they wait for `collect`, or stay where
    something else keeps them."""

    names: tuple[str, ...]
    things: tuple[Fate, ...]

    @property
    def bytes(self) -> int:
        return sum(thing.bytes for thing in self.things if thing.fate == "waits")


def remove(target: Target, names: Collection[str], memory: MemoryFile, now: float, wait: float = 0) -> Removal:
    """All of the names in one publication; NotFound where one is not there, and then none is withdrawn. Their content's
    grace period begins now, whatever was known of it."""
    with target.begin(wait) as transaction:
        survey = read_survey(target.layout, with_leases=False)
        known = {name.name for name in (*survey.names, *survey.halves)}
        for name in names:
            if name not in known:
                raise NotFound("image", name, f"is not published in {target.layout.root}", "look at its spelling")
        there = {*things_of(survey)}
        before, after = kept_things(survey, {}), kept_things(without(survey, names), {})
        changed = [
            thing for thing, why in before.items()
            if thing.kind is not Kind.NAME and why == PUBLISHED != after.get(thing) and thing in there
        ]  # fmt: skip
        places, ledger = Places(target.layout, survey), Ledger()
        things = tuple(
            Fate(
                thing.kind.value, thing.name, "stays" if thing in after else "waits", places.measure(thing, ledger),
                after.get(thing, _LOOSE), None if thing in after else now,
            )
            for thing in sorted(changed, key=lambda thing: (thing in after, thing.kind.order, thing.name))
        )  # fmt: skip
        old = memory.read()
        fresh = {thing.key: now for thing in changed if thing not in after}
        memory.write(Memory(old.repository, {**old.since, **fresh}, old.wished))
        sweep(transaction, [Thing(Kind.NAME, name) for name in sorted(set(names))], places, now)
        transaction.show()
    return Removal(tuple(sorted(set(names))), things)
