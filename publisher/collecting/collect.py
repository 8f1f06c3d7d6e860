"""The collection: mark and sweep, in bounded publications each of which marks anew under the publisher's lock.

So nothing can be wanted again between the look and the removal: whoever publishes has to wait, and what it published
is seen by the next look. A run that is killed leaves a repository in which less leads to less, and the next one goes
on: the times that it noted are on the disk before the first removal.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import msgspec

from cvmfsrepo.errors import FailedPrecondition
from cvmfsrepo.layout import Layout
from publisher.collecting.expiry import Rule, expired
from publisher.collecting.measure import Ledger
from publisher.collecting.memory import Memory, MemoryFile, aged
from publisher.collecting.plan import Fate, Plan, planned
from publisher.collecting.reachable import Leases, kept_things, things_of
from publisher.collecting.reading import read_survey
from publisher.collecting.survey import Survey, Thing
from publisher.collecting.sweeping import Places, sweep
from publisher.transactions.contract import Target


@dataclass(frozen=True, slots=True)
class Terms:
    """What is asked of a collection. `grace` in days; `at_once` things at most go in one publication; `wait` seconds
    for another publisher; `with_store` has what podman's store lists stay. `rules` say which names expire, but for
    those in `wished`; days of names in `pushed` are counted from then, if that is later. `leases` is asked anew before
    each removal."""

    memory: MemoryFile
    grace: float = 7
    at_once: int = 1000
    wait: float = 0
    with_store: bool = True
    rules: tuple[Rule, ...] = ()
    wished: Collection[str] = ()
    pushed: Mapping[str, float] = field(default_factory=dict)
    leases: Callable[[], Leases] | None = None
    clock: Callable[[], float] = time.time


class Report(msgspec.Struct, frozen=True):
    """What a collection did, or would do. `things` went, wait, or stay though no name leads to them; of all others only
    the number is told, by kind. `unknown` are paths of no known shape, which are left alone."""

    things: tuple[Fate, ...]
    kept: dict[str, int]
    unknown: tuple[str, ...]
    dry_run: bool
    publications: int = 0

    def bytes(self, fate: str) -> int:
        return sum(thing.bytes for thing in self.things if thing.fate == fate)


@dataclass(frozen=True, slots=True)
class _Look:
    """One look at a repository: the plan, where its things are, what is to be remembered, and when it was."""

    plan: Plan
    places: Places
    memory: Memory
    now: float

    def fates(self, things: Iterable[Thing], word: str, ledger: Ledger) -> list[Fate]:
        return [
            Fate(
                thing.kind.value, thing.name, word, self.places.measure(thing, ledger),
                self.plan.reason_of(thing, self.now), self.plan.since.get(thing.key),
            )
            for thing in things
        ]  # fmt: skip

    def report(self, gone: Iterable[Fate], ledger: Ledger, dry_run: bool, publications: int = 0) -> Report:
        rest = [*self.fates(self.plan.waits, "waits", ledger), *self.fates(self.plan.unnamed, "stays", ledger)]
        kept = dict[str, int]()
        for thing in things_of(self.plan.survey):
            if thing in self.plan.kept:
                kept[thing.kind.value] = kept.get(thing.kind.value, 0) + 1
        return Report((*gone, *rest), kept, self.plan.survey.unknown, dry_run, publications)


def rehearse(layout: Layout, terms: Terms) -> Report:
    """What `collect` would do. Writes nothing anywhere, and takes no lock: a publication meanwhile may be half seen."""
    look, ledger = _look(layout, terms), Ledger()
    return look.report(look.fates(look.plan.goes, "goes", ledger), ledger, dry_run=True)


def collect(target: Target, terms: Terms) -> Report:
    """Removes what may go. Errors of a look leave everything as it is; those of a removal leave what its publication
    promises."""
    gone, publications = list[Fate](), 0
    while True:
        with target.begin(terms.wait) as transaction:
            look = _look(target.layout, terms)
            terms.memory.write(look.memory)
            batch = look.plan.goes[: terms.at_once]
            if not batch:
                return look.report(gone, Ledger(), dry_run=False, publications=publications)
            going = look.fates(batch, "goes", Ledger())
            sweep(transaction, batch, look.places, look.now)
            transaction.show()
            if not transaction.changed:
                problem = f"still holds {batch[0].kind.value} {batch[0].name} after its removal"
                raise FailedPrecondition("repository", str(target.layout.root), problem, "look at the publication")
            gone, publications = gone + going, publications + 1


def _look(layout: Layout, terms: Terms) -> _Look:
    """Reads everything; errors name what is in the way."""
    now, memory = terms.clock(), terms.memory.read()
    leases = terms.leases() if terms.leases else {}
    survey = read_survey(layout, with_leases=bool(leases))
    last = {**memory.wished}
    for name, at in terms.pushed.items():
        last[name] = max(last.get(name, 0), at)
    over = expired(survey.names, terms.rules, terms.wished, last, now)
    kept = kept_things(without(survey, {one.name for one in over}), leases, terms.with_store)
    since = aged(memory.since, (thing.key for thing in things_of(survey) if thing not in kept), now)
    plan = planned(survey, kept, since, over, terms.grace, now)
    return _Look(plan, Places(layout, survey), _remembered(memory, plan, terms.wished, now), now)


def without(survey: Survey, names: Collection[str]) -> Survey:
    """The repository as it is when these names are withdrawn."""
    return replace(survey, names=tuple(name for name in survey.names if name.name not in names))


def _remembered(memory: Memory, plan: Plan, wished: Collection[str], now: float) -> Memory:
    """Names are remembered while they are there."""
    there = {name.name for name in plan.survey.names}
    known = {name: at for name, at in memory.wished.items() if name in there}
    return Memory(memory.repository, plan.since, known | {name: now for name in wished if name in there})
