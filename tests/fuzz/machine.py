"""Random verbs, each over an implementation and over the model: same answers, same errors, same list after each.

Names are few, so that they collide, and awkward, so that a filter has to quote them.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError, FailedPrecondition
from snapshotter import labels as label
from snapshotter.filters import quote
from snapshotter.snapshots import Info, Kind, Mount
from tests.snapshotter.layers import lookup, pull
from tests.suites.contract import Verbs, lowers_of, option, upper_of
from tests.suites.model import Condition, Model, Shown

NAMES = ("a", "k8s.io/7/extract-1 sha256:ab", "ü", 'q"u\\ote', "x,y==z", "c1", "c2", "c3")
RESTARTS = 2
"""Restarts in one run of the machine: each takes a second where the server is a process."""

_label_names = st.sampled_from(["a", "d.e/f", "containerd.io/snapshot/x"])
_label_values = st.sampled_from(["1", "2", 'ü "\\ ,', "12"])  # an empty one is dropped by containerd's store
_labels = st.dictionaries(_label_names, _label_values, max_size=3)
_names = st.integers(0, 99)
"""A name by its place among the fixed ones and the repository's; a large number is most often one of those that are."""
_targets = st.sampled_from(["sha256:t1", "sha256:t2"])
_paths = st.lists(
    st.one_of(st.just("labels"), _label_names.map("labels.{}".format), st.sampled_from(["name", "parent", "labelsx"])),
    max_size=3,
)
_fields = st.sampled_from([
    ("name",), ("parent",), ("kind",), ("labels", "a"), ("labels", "d.e/f"), ("labels", label.TARGET),
    ("labels", label.REMOTE), ("labels",), ("other",),
])  # fmt: skip
_values = st.sampled_from(["", "active", "view", "committed", "1", 'ü "\\ ,', "sha256:t1", *NAMES])
_patterns = st.sampled_from(["^a", "[12]$", "committed|view", "^$", "c[0-9]", "ü.*,"])
_conditions = st.one_of(
    st.builds(Condition, _fields),
    st.builds(Condition, _fields, st.sampled_from(["==", "!="]), _values),
    st.builds(Condition, _fields, st.just("~="), _patterns),
)
_filters = st.lists(st.lists(_conditions, min_size=1, max_size=3), max_size=2)


@dataclass(slots=True)
class World:
    """What the machine runs over. `restart` ends the server, in peace or not, and answers the new one's verbs; `layers`
    are digests that a Prepare may ask for, whether they are published or not; `rebase` says whether Commit takes a
    parent, `cleans` whether there is a Cleanup."""

    verbs: Verbs
    root: Path
    model: Callable[[], Model]
    layers: Sequence[Digest | str | None] = ()
    diff_ids: Sequence[Digest | str | None] = (None,)
    restart: Callable[[bool], Verbs] | None = None
    rebase: bool = True
    cleans: bool = True


class SnapshotsMachine(RuleBasedStateMachine):
    """Every rule is one call. The world outlives the machine, which leaves it empty."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world, self.model = world, world.model()
        self.restarts = 0

    @property
    def verbs(self) -> Verbs:
        return self.world.verbs

    @rule(key=_names, parent=_names, labels=_labels, nothing=st.booleans())
    def prepare(self, key: int, parent: int, labels: Mapping[str, str], nothing: bool) -> None:
        given = self._name(key), "" if nothing else self._name(parent), labels
        self._same(lambda: shown(self.verbs.prepare(*given)), lambda: self.model.prepare(*given))

    @rule(key=_names, parent=_names, labels=_labels, nothing=st.booleans())
    def view(self, key: int, parent: int, labels: Mapping[str, str], nothing: bool) -> None:
        given = self._name(key), "" if nothing else self._name(parent), labels
        self._same(lambda: shown(self.verbs.view(*given)), lambda: self.model.view(*given))

    @precondition(lambda self: self.world.layers)
    @rule(key=_names, parent=_names, nothing=st.booleans(), wanted=_targets, layer=_names, diff_id=_names)
    def pull(self, key: int, parent: int, nothing: bool, wanted: str, layer: int, diff_id: int) -> None:
        """A Prepare of a pull; where it says that the layer is served, containerd finds it by its filter."""
        layers, diff_ids = self.world.layers, self.world.diff_ids
        labels = pull(wanted, layers[layer % len(layers)], diff_ids[diff_id % len(diff_ids)])
        given = self._name(key), "" if nothing else self._name(parent), labels
        is_new = given[0] not in self.model.held
        answer = self._same(lambda: shown(self.verbs.prepare(*given)), lambda: self.model.prepare(*given))
        if answer == "AlreadyExists" and is_new:
            on = Condition(("parent",), "==", given[1])
            expected = self.model.walk([[Condition(("labels", label.TARGET), "==", wanted), on]])
            assert set(lookup(self.verbs, wanted, quote(given[1]))) == {info.name for info in expected} != set()

    @rule(key=_names, file=st.sampled_from("fghi"))
    def write(self, key: int, file: str) -> None:
        name = self._name(key)
        if name in self.model.held and self.model.held[name].kind is Kind.ACTIVE:
            (upper_of(self.verbs.mounts(name)) / file).write_text(name)
            self.model.write(name, file)

    @rule(key=_names, name=_names, labels=_labels, parent=_names, rebase=st.booleans())
    def commit(self, key: int, name: int, labels: Mapping[str, str], parent: int, rebase: bool) -> None:
        on = self._name(parent) if rebase and self.world.rebase else ""
        given = self._name(name), self._name(key), labels, on
        self._same(lambda: self.verbs.commit(*given), lambda: self.model.commit(*given))

    @rule(key=_names)
    def remove(self, key: int) -> None:
        name = self._name(key)
        self._same(lambda: self.verbs.remove(name), lambda: self.model.remove(name))

    @rule(key=_names)
    def look(self, key: int) -> None:
        """Stat, Mounts and Usage of one name."""
        name = self._name(key)
        self._same(lambda: summary([self.verbs.stat(name)]), lambda: summary([self.model.stat(name)]))
        self._same(lambda: shown(self.verbs.mounts(name)), lambda: self.model.mounts(name))
        if name not in self.model.held or self.model.held[name].kind is not Kind.VIEW:
            self._same(lambda: self.verbs.usage(name).inodes, lambda: self.model.inodes(name))

    @rule(key=_names, labels=_labels, paths=_paths)
    def update(self, key: int, labels: Mapping[str, str], paths: Sequence[str]) -> None:
        """Of labels that are not the protocol's: containerd never takes those away."""
        name = self._name(key)
        kept = {n: v for n, v in self._labels_of(name).items() if n in PROTOCOL}
        info = Info(Kind.VIEW, name, "other", 1, 1, {**labels, **kept})
        self._same(lambda: summary([self.verbs.update(info, paths)]), lambda: summary([self.model.update(info, paths)]))

    @rule(filters=_filters)
    def walk(self, filters: Sequence[Sequence[Condition]]) -> None:
        texts = [",".join(condition.text for condition in filter_) for filter_ in filters]
        self._same(lambda: summary(self.verbs.walk(texts)), lambda: summary(self.model.walk(filters)))

    @precondition(lambda self: self.world.cleans)
    @rule()
    def cleanup(self) -> None:
        self.verbs.cleanup()
        assert len(os.listdir(self.world.root / "snapshots")) == len(self.model.held)

    @precondition(lambda self: self.world.restart and self.restarts < RESTARTS)
    @rule(peacefully=st.booleans())
    def restart(self, peacefully: bool) -> None:
        assert self.world.restart is not None
        self.restarts += 1
        self.world.verbs = self.world.restart(peacefully)

    @invariant()
    def the_list_is_the_models(self) -> None:
        assert summary(self.verbs.walk()) == summary(self.model.walk())

    def teardown(self) -> None:
        """Removes all, children first: what is refused has some left."""
        while infos := list(self.verbs.walk()):
            removed = [info.name for info in infos if self._removed(info.name)]
            assert removed, infos
        self.model.held.clear()
        if self.world.cleans:
            self.cleanup()

    def _removed(self, name: str) -> bool:
        try:
            self.verbs.remove(name)
        except FailedPrecondition:
            return False
        return True

    def _name(self, number: int) -> str:
        remote = [name for name in self.model.held if name not in NAMES]
        choice = [*NAMES, *remote]
        return choice[number % len(choice)]

    def _labels_of(self, name: str) -> Mapping[str, str]:
        return self.model.held[name].labels if name in self.model.held else {}

    def _same(self, real: Callable[[], object], model: Callable[[], object]) -> object:
        expected = outcome(model)
        assert outcome(real) == expected
        return expected


PROTOCOL = frozenset({label.TARGET, label.REMOTE, label.LAYER_DIGEST, label.DIFF_ID, label.IMAGE})


def outcome(call: Callable[[], object]) -> object:
    """What a call answers, or the class of its error."""
    try:
        return call()
    except ContractError as error:
        return type(error).__name__


def summary(infos: Iterable[Info]) -> Any:
    """What two lists must agree in: everything but the times, whose order counts. Of the sentence that says why a
    layer was missed, the reason."""
    found = sorted(infos, key=lambda info: info.created)
    rows = [(i.name, i.kind, i.parent, _cut(i.labels), i.created == i.updated) for i in found]
    return rows, [info.name for info in sorted(found, key=lambda info: info.updated)]


def _cut(labels: Mapping[str, str]) -> dict[str, str]:
    return {name: value.split(":")[0] if name == label.MISS else value for name, value in labels.items()}


def shown(mounts: Sequence[Mount]) -> Shown:
    """What a mount shows, without mounting it: markers and shims hold nothing that a container sees."""
    (mount,) = mounts
    if mount.type == "bind":
        writable = "rw" in mount.options
        files = _files(Path(mount.source))
        return Shown(False, writable, (files,) if files and not writable else ())
    lowers = [files for lower in lowers_of(mounts) if (files := _files(lower))]
    return Shown(True, bool(option(mounts, "upperdir")), tuple(lowers))


def _files(directory: Path) -> frozenset[str]:
    return frozenset(path.name for path in directory.iterdir() if path.is_file() and not path.name.startswith(".wh."))
