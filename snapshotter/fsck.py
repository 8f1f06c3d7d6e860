"""Compares what containerd knows of our snapshots, our records, and what the daemon finds on its disk. Pure.

containerd does not say by which name it asks us for a snapshot, but how it makes that name is known: what a client
prepared is `<namespace>/<number>/<key>`, what a repository served has the name that `remote_name` makes of its key and
of its parent's name. It lists no snapshot that we do not have: what we lost shows by who needs it. Whatever cannot be
told is taken for needed.
"""

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec

from snapshotter.admin.values import Problem, Snapshot
from snapshotter.engineview import EngineView, Place, local_parts
from snapshotter.snapshots import Info
from snapshotter.snapshotter import remote_name

SETTLED = 60.0
"""Seconds after its making in which a record that containerd does not know is not removed: it may be about to."""

_UNKNOWN = "is none of our directories"
"""What `inspect` says of a name that no record has; of a number it is an orphan, as it is while the daemon runs."""


class Kind(StrEnum):
    """What is wrong."""

    LOST = "lost"
    DISAGREES = "disagrees"
    LEFTOVER = "leftover"
    FOREIGN = "foreign"
    DISK = "disk"
    ORPHAN = "orphan"


class Difference(msgspec.Struct, frozen=True):
    """One difference: what it is about (a name or a path), what it means, what helps, and which containers and images
    of containerd it concerns. `mendable` where --repair mends it."""

    kind: Kind
    subject: str
    problem: str
    remedy: str
    users: tuple[str, ...] = ()
    mendable: bool = False


class Matching:
    """Which record may stand behind each snapshot of containerd's, and what follows from it."""

    def __init__(self, snapshots: Mapping[Place, Info], records: Sequence[Snapshot]) -> None:
        self._snapshots = snapshots
        self.records = {record.name: record for record in records}
        self.by_id = {record.id: record for record in records}
        self._by_key: dict[tuple[str, str], list[Snapshot]] = {}
        for record in records:
            if parts := local_parts(record.name):
                self._by_key.setdefault(parts, []).append(record)
        self._found: dict[Place, tuple[str, ...]] = {}
        for place in snapshots:
            self._resolve(place)
        self.places: dict[str, list[Place]] = {}
        for place, names in self._found.items():
            for name in names:
                self.places.setdefault(name, []).append(place)

    def of(self, place: Place) -> tuple[str, ...]:
        """Names of the records that fit: their kind and their parents are as containerd says."""
        return self._found[place]

    def named_alike(self, place: Place) -> list[Snapshot]:
        """Records with the place's namespace and key, whether they fit or not."""
        return self._by_key.get((place.namespace, place.key), [])

    def needed(self) -> set[str]:
        """Records that containerd may know, and all that those stand on."""
        alike = {record.name for place in self._snapshots for record in self.named_alike(place)}
        found = set[str]()
        for name in [*self.places, *alike]:
            while name and name not in found and name in self.records:
                found.add(name)
                name = self.records[name].parent
        return found

    def above(self) -> Mapping[str, set[str]]:
        """Each record with all that stand on it, itself included."""
        found: dict[str, set[str]] = {name: set() for name in self.records}
        for name in self.records:
            below = name
            while below in found and name not in found[below]:
                found[below].add(name)
                below = self.records[below].parent
        return found

    def _resolve(self, place: Place) -> tuple[str, ...]:
        if place in self._found:
            return self._found[place]
        self._found[place] = ()
        info = self._snapshots[place]
        above = Place(place.snapshotter, place.namespace, info.parent)
        parents: tuple[str, ...] = ("",)
        if info.parent:
            parents = self._resolve(above) if above in self._snapshots else ()
        served = [remote_name(place.key, parent) for parent in parents]
        fitting = [one.name for one in self.named_alike(place)
                   if one.kind == info.kind.label and one.parent in parents]  # fmt: skip
        self._found[place] = (*fitting, *(name for name in served if name in self.records))
        return self._found[place]


def compare(
    view: EngineView | None,
    records: Sequence[Snapshot],
    disk: Sequence[Problem],
    root: str,
    now: int,
    settled: float = SETTLED,
) -> tuple[Difference, ...]:
    """All differences, the worst first, leftovers in the order in which they may be removed. `disk` is what the daemon
    found below its `root`; `now`, in nanoseconds, is when the records were read, before all else; `settled` is in
    seconds. Without containerd (None, or one that could
    not list the snapshots) only the disk is looked at."""
    snapshots = view.snapshots if view else None
    matching = Matching(snapshots or {}, records)
    users = _users(view, matching)
    found = [_disk(one, root, matching, users) for one in disk]
    if view is None or snapshots is None:
        return tuple(found)
    lost, disagreeing = _lost(view, snapshots), _disagreeing(matching, snapshots, now)
    unsure = bool(disagreeing)
    return (*lost, *disagreeing, *found, *_leftovers(view, matching, unsure, now - int(settled * 1e9)))


def _users(view: EngineView | None, matching: Matching) -> Mapping[str, tuple[str, ...]]:
    """The containers and images that need a record, directly or by what stands on it."""
    by_place = view.users() if view else {}
    found = dict[str, tuple[str, ...]]()
    for name, above in matching.above().items():
        places = [place for one in above for place in matching.places.get(one, ())]
        found[name] = tuple(sorted({user for place in places for user in by_place.get(place, ())}))
    return found


def _lost(view: EngineView, snapshots: Mapping[Place, Info]) -> list[Difference]:
    return [
        Difference(
            Kind.LOST, str(place),
            "containerd needs this snapshot, and this node has it no more",
            "remove these containers and images from containerd, the images with `ctr images remove --sync`, and pull"
            " and start them again: until then containerd takes the snapshot for existing and makes no new one",
            users,
        )
        for place, users in sorted(view.users().items(), key=lambda item: str(item[0])) if place not in snapshots
    ]  # fmt: skip


def _disagreeing(matching: Matching, snapshots: Mapping[Place, Info], now: int) -> list[Difference]:
    found = []
    for place, info in snapshots.items():
        if matching.of(place) or max(info.created, info.updated) > now:
            continue
        parent = Place(place.snapshotter, place.namespace, info.parent)
        if info.parent and parent in snapshots and not matching.of(parent):
            continue  # the lowest one is the one to name
        known = [f"{one.name!r} is {one.kind} on {one.parent!r}" for one in matching.named_alike(place)]
        said = "; ".join(known) or "no record here has its name"
        found.append(
            Difference(
                Kind.DISAGREES, str(place),
                f"containerd has it as {info.kind.label} on {info.parent!r}, and here {said}",
                "it may show other content than it should: remove the containers and images that use it and pull again",
            )
        )  # fmt: skip
    return found


def _leftovers(view: EngineView, matching: Matching, unsure: bool, before: int) -> list[Difference]:
    """Records that containerd does not know, those first on which nothing stands."""
    left = set(matching.records) - matching.needed()
    above = matching.above()
    ours = {name for name in left if _is_ours(name, view)}
    found = []
    for name in sorted(left, key=lambda one: (_depth(matching.records, one), one), reverse=True):
        record = matching.records[name]
        if name not in ours:
            found.append(
                Difference(
                    Kind.FOREIGN, name, "belongs to a namespace that this containerd does not have",
                    "if no other engine uses this daemon, containerd's next garbage collection removes it",
                )
            )  # fmt: skip
            continue
        is_old = max(record.created, record.updated) < before
        remedy = "`fsck --repair` removes it; containerd's next garbage collection does so too"
        if unsure:
            remedy = "it is kept as long as containerd disagrees about others: one of them may be this one"
        elif not is_old:
            remedy = "containerd may be about to make it: look again in a minute"
        found.append(
            Difference(
                Kind.LEFTOVER, name, f"containerd does not know this {record.kind} snapshot: it only takes disk",
                remedy, mendable=is_old and not unsure and above[name] <= ours,
            )
        )  # fmt: skip
    return found


def _is_ours(name: str, view: EngineView) -> bool:
    """Whether a record was made for this containerd: `remote/` is nobody's alone, and can always be made again."""
    parts = local_parts(name)
    return parts[0] in view.namespaces if parts else name.startswith("remote/")


def _depth(records: Mapping[str, Snapshot], name: str) -> int:
    depth = 0
    while name in records and records[name].parent and depth <= len(records):
        name, depth = records[name].parent, depth + 1
    return depth


def _disk(found: Problem, root: str, matching: Matching, users: Mapping[str, tuple[str, ...]]) -> Difference:
    """What the daemon found on its disk, with whom it concerns."""
    inside = re.match(re.escape(f"{root}/snapshots/") + r"([1-9]\d{0,14})(/.*)?$", found.path)
    if not inside:
        return Difference(Kind.DISK, found.path, found.problem, found.remedy)
    record = matching.by_id.get(int(inside[1]))
    if record is None:
        if found.problem != _UNKNOWN:  # kept on purpose, after a restore
            return Difference(Kind.DISK, found.path, found.problem, found.remedy)
        return Difference(
            Kind.ORPHAN, found.path, "is a directory of no snapshot",
            "`fsck --repair` removes it; what stays has a number that was never given: move it elsewhere",
            mendable=True,
        )  # fmt: skip
    mendable = bool(record.repository) or inside[2] == "/work"
    remedy = f"`fsck --repair` makes it again, or {found.remedy}" if mendable else found.remedy
    return Difference(Kind.DISK, found.path, found.problem, remedy, users.get(record.name, ()), mendable)
