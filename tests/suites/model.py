"""The snapshots contract in memory, to compare implementations with: as small as it can be and nothing but the rules.

Names, kinds, parents, labels, filters, the order of times, what a mount shows and which error comes first. The rules
are those of containerd's metadata store; a run over containerd's own overlayfs server proves them. What concerns remote
layers is containerd's protocol for them: AlreadyExists, and a committed snapshot with the target label on the parent.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cvmfsrepo.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from snapshotter import labels as label
from snapshotter.filters import quote
from snapshotter.snapshots import Info, Kind
from snapshotter.snapshotter import remote_name

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Shown:
    """What a mount shows: the names of the files of each lower that has any, topmost first."""

    overlay: bool
    writable: bool
    lowers: tuple[frozenset[str], ...]


@dataclass(frozen=True, slots=True)
class Condition:
    """One selector of a filter; the operator is as it is spelled, "" asks for presence."""

    path: tuple[str, ...]
    operator: str = ""
    value: str = ""

    @property
    def text(self) -> str:
        path = ".".join([self.path[0], *map(quote, self.path[1:])])
        return f"{path}{self.operator}{quote(self.value)}" if self.operator else path

    def holds(self, info: Info) -> bool:
        """A field that is not there is the empty string, but equal to nothing."""
        fields = {"name": info.name, "parent": info.parent, "kind": info.kind.label}
        fields |= {f"labels.{name}": value for name, value in info.labels.items()}
        name = ".".join(self.path)
        value = fields.get(name, "")
        match self.operator:
            case "==":
                return name in fields and value == self.value
            case "!=":
                return value != self.value
            case "~=":
                return re.search(self.value, value) is not None
        return name in fields


@dataclass(slots=True)
class Held:
    """One snapshot; times are ticks. `layer` is the digest of the repository's layer that it shows, or ""."""

    kind: Kind
    parent: str
    labels: dict[str, str]
    created: int
    updated: int
    files: frozenset[str] = frozenset()
    layer: str = ""
    miss: str = ""


@dataclass(slots=True)
class Model:
    """The verbs. `layers` are the repository's layers and their files, `diff_ids` those that it has links for."""

    repository: str = ""
    layers: Mapping[str, frozenset[str]] = field(default_factory=dict)
    diff_ids: Mapping[str, str] = field(default_factory=dict)
    held: dict[str, Held] = field(default_factory=dict)
    _ticks: "itertools.count[int]" = field(default_factory=itertools.count)

    def prepare(self, key: str, parent: str, labels: Mapping[str, str]) -> Shown:
        self._check_new(key, parent)
        if not (target := labels.get(label.TARGET)):
            return self._create(Kind.ACTIVE, key, parent, labels)
        found = self._find_layer(labels)
        if found not in self.layers:
            return self._create(Kind.ACTIVE, key, parent, labels, found)
        name = remote_name(target, parent)
        if name not in self.held:
            self._create(Kind.COMMITTED, name, parent, {**labels, label.REMOTE: self.repository})
            self.held[name].layer, self.held[name].files = found, self.layers[found]
        raise AlreadyExists("snapshot", target, "is served")

    def view(self, key: str, parent: str, labels: Mapping[str, str]) -> Shown:
        self._check_new(key, parent)
        return self._create(Kind.VIEW, key, parent, labels)

    def write(self, key: str, file: str) -> None:
        """A container writes a file into an active snapshot."""
        self.held[key].files |= {file}

    def mounts(self, key: str) -> Shown:
        """A layer that stands in a chain twice is shown once, where it stands highest."""
        top = self._get(key)
        if top.kind is Kind.COMMITTED:
            raise FailedPrecondition("snapshot", key, "is committed")
        lowers: dict[object, frozenset[str]] = {}
        count, above = 0, top
        while above.parent:
            name, above = above.parent, self.held[above.parent]
            lowers.setdefault(above.layer or ("local", name), above.files)
            count += 2 if above.layer else 1  # the shim above it
        writable = top.kind is Kind.ACTIVE
        overlay = count > (0 if writable else 1)
        return Shown(overlay, writable, tuple(files for files in lowers.values() if files))

    def commit(self, name: str, key: str, labels: Mapping[str, str], parent: str = "") -> None:
        active = self._get(key)
        if name in self.held:
            raise AlreadyExists("snapshot", name, "exists")
        if active.kind is not Kind.ACTIVE:
            raise FailedPrecondition("snapshot", key, "is not active")
        if parent and active.parent not in ("", parent):
            raise InvalidArgument("parent", parent, "is another one")
        if parent and self._get(parent).kind is not Kind.COMMITTED:
            raise FailedPrecondition("parent", parent, "is not committed")
        del self.held[key]
        self._create(Kind.COMMITTED, name, parent or active.parent, labels, active.miss)
        self.held[name].files = active.files

    def remove(self, key: str) -> None:
        self._get(key)
        if any(other.parent == key for other in self.held.values()):
            raise FailedPrecondition("snapshot", key, "has children")
        del self.held[key]

    def stat(self, key: str) -> Info:
        found = self._get(key)
        labels = {**found.labels, label.MISS: found.miss} if found.miss else dict(found.labels)
        return Info(found.kind, key, found.parent, found.created, found.updated, labels)

    def update(self, info: Info, paths: Sequence[str]) -> Info:
        found = self._get(info.name)
        labels = dict(found.labels)
        for path in paths or ["labels"]:
            field_, _, name = path.partition(".")
            if field_ != "labels":
                raise InvalidArgument("field", path, "cannot be changed")
            if not name:
                labels = dict(info.labels)
            else:
                labels[name] = info.labels.get(name, "")
        found.labels = {name: value for name, value in labels.items() if value}
        found.updated = next(self._ticks)
        return self.stat(info.name)

    def walk(self, filters: Sequence[Sequence[Condition]] = ()) -> list[Info]:
        """One of the filters holds, of which every condition holds; without filters, all."""
        infos = [self.stat(name) for name in self.held]
        return [i for i in infos if not filters or any(all(c.holds(i) for c in filter_) for filter_ in filters)]

    def inodes(self, key: str) -> int:
        """The inodes that Usage answers: the root directory and the files; nothing of a repository's layer, and of a
        view nothing is said."""
        found = self._get(key)
        return 0 if found.layer or found.kind is Kind.VIEW else 1 + len(found.files)

    def _find_layer(self, labels: Mapping[str, str]) -> str:
        """The digest of the layer that labels ask for, or the reason why it cannot be had."""
        given = [labels.get(label.LAYER_DIGEST, ""), labels.get(label.DIFF_ID, "")]
        if any(text and not _DIGEST.fullmatch(text) for text in given):
            return "bad-label"
        if not any(given):
            return "no-layer-label"
        layer = given[0] if given[0] in self.layers else self.diff_ids.get(given[1], "")
        return layer or "absent"

    def _check_new(self, key: str, parent: str) -> None:
        if parent and self._get(parent).kind is not Kind.COMMITTED:
            raise InvalidArgument("parent", parent, "is not committed")
        if key in self.held:
            raise AlreadyExists("snapshot", key, "exists")

    def _create(self, kind: Kind, key: str, parent: str, labels: Mapping[str, str], miss: str = "") -> Shown:
        now = next(self._ticks)
        self.held[key] = Held(kind, parent, dict(labels), now, now, miss=miss)
        return self.mounts(key) if kind is not Kind.COMMITTED else Shown(False, False, ())

    def _get(self, key: str) -> Held:
        if key not in self.held:
            raise NotFound("snapshot", key, "does not exist")
        return self.held[key]
