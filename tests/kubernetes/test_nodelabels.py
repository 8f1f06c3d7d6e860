"""Labels of a node: their names, what is sent when, and what happens while somebody does not answer."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from cvmfsrepo.errors import DataLoss, Unavailable
from snapshotter.nodelabels.keeping import BEAT, LONGEST_WAIT, REFRESH, SILENCE, Keeper
from snapshotter.nodelabels.labels import LONGEST, PREFIX, UNKNOWN, Change, change, labels, unnameable
from snapshotter.nodelabels.watched import parse_states

FIRST, SECOND = f"{PREFIX}unpacked.cern.ch", f"{PREFIX}singularity.opensciencegrid.org"


@dataclass
class Daemon:
    """`says` are the states; None while it does not answer."""

    says: dict[str, str] | None = field(default_factory=lambda: {"unpacked.cern.ch": "healthy"})

    def states(self) -> Mapping[str, str]:
        if self.says is None:
            raise Unavailable("daemon at", "x", "does not answer")
        return self.says


@dataclass
class Node:
    """Merges patches, and remembers them; refuses while it is `away`."""

    labels: dict[str, str] = field(default_factory=lambda: {"zone": "a"})
    away: bool = False
    asked: list[Change] = field(default_factory=list)

    def change_labels(self, change: Change) -> Mapping[str, str]:
        self.asked.append(change)
        if self.away:
            raise Unavailable("API at", "x", "does not answer")
        merged = {**self.labels, **change}
        self.labels = {key: value for key, value in merged.items() if value is not None}
        return self.labels


@dataclass
class World:
    """A keeper with a clock that only `beats` moves."""

    daemon: Daemon = field(default_factory=Daemon)
    node: Node = field(default_factory=Node)
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.keeper = Keeper(self.daemon, self.node, lambda: self.now)

    def beats(self, number: int = 1) -> list[Change]:
        """What was asked of the API meanwhile."""
        before = len(self.node.asked)
        for _ in range(number):
            self.keeper.beat()
            self.now += BEAT
        return self.node.asked[before:]


def test_names_of_labels() -> None:
    """A label's name is a repository's, where Kubernetes takes it; others are left out and can be told."""
    longest = "a" * LONGEST
    states = {"unpacked.cern.ch": "open", longest: "healthy", "a" * 64: "healthy", "a b": "healthy", "ends.": "open"}
    assert labels(states) == {FIRST: "open", f"{PREFIX}{longest}": "healthy"}
    assert unnameable(states) == ["a" * 64, "a b", "ends."]
    assert unnameable(["", "ä.example.org", "-a", "a\n", "a/b"]) == ["", "ä.example.org", "-a", "a\n", "a/b"]


def test_what_has_to_change() -> None:
    """What differs, and None for what is to go."""
    assert change({FIRST: "healthy", SECOND: "open"}, {FIRST: "open"}) == {FIRST: "open", SECOND: None}
    assert change({FIRST: "healthy"}, {FIRST: "healthy"}) == {}


def test_states_of_a_page_of_metrics() -> None:
    """The one with 1 of each repository; a name with quotes and backslashes is read as it was written."""
    name = 'cvmfs_snapshotter_repository_state{repository="'
    page = f'{name}a",state="healthy"}} 0.0\n{name}a",state="open"}} 1.0\n{name}q\\"\\\\n\\n",state="degraded"}} 1.0\n'
    assert parse_states(f"# HELP x y\n{page}other 1.0\n") == {"a": "open", 'q"\\n\n': "degraded"}
    with pytest.raises(DataLoss, match="tells no repository's state"):
        parse_states("up 1\n")


def test_a_change_is_told_at_once_and_nothing_new_rarely() -> None:
    """One request at the start, one for each change, and the same again after a while."""
    world = World()
    assert world.beats() == [{FIRST: "healthy"}]
    assert world.beats(5) == []
    world.daemon.says = {"unpacked.cern.ch": "open"}
    assert world.beats() == [{FIRST: "open"}]
    assert world.beats(int(REFRESH / BEAT) - 1) == []
    assert world.beats() == [{FIRST: "open"}]
    assert world.node.labels == {"zone": "a", FIRST: "open"}


def test_what_others_do_to_our_labels_is_mended() -> None:
    """At the next refresh; labels of others are left alone."""
    world = World()
    world.beats()
    world.node.labels = {"zone": "b", FIRST: "nonsense"}
    world.beats(int(REFRESH / BEAT))
    assert world.node.labels == {"zone": "b", FIRST: "healthy"}


def test_labels_that_an_earlier_process_left_go() -> None:
    """Those of repositories that are configured no more: the API's first answer shows them."""
    world = World(node=Node({"zone": "a", SECOND: "healthy"}))
    assert world.beats() == [{FIRST: "healthy"}, {SECOND: None}]
    assert world.node.labels == {"zone": "a", FIRST: "healthy"}
    world.daemon.says = {"singularity.opensciencegrid.org": "healthy"}
    assert world.beats() == [{FIRST: None, SECOND: "healthy"}]


def test_a_silent_daemon() -> None:
    """One that starts anew is not told of; one that stays silent makes all its repositories unknown."""
    world = World()
    world.beats()
    world.daemon.says = None
    assert world.beats(int(SILENCE / BEAT)) == []
    assert world.beats() == [{FIRST: UNKNOWN}]
    world.daemon.says = {"unpacked.cern.ch": "healthy"}
    assert world.beats() == [{FIRST: "healthy"}]


def test_a_daemon_that_never_answers() -> None:
    """What an earlier process said of it is taken back."""
    world = World(Daemon(None), Node({"zone": "a", FIRST: "healthy"}))
    assert world.beats(int(SILENCE / BEAT) + 1) == []
    assert world.beats() == [{}, {FIRST: None}]
    assert world.node.labels == {"zone": "a"}


def test_an_api_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    """It is asked more and more rarely, is told what holds when it is back, and the log has two lines of it."""
    caplog.set_level(logging.INFO)
    world = World(node=Node(away=True))
    hours = 200
    assert hours * BEAT / LONGEST_WAIT <= len(world.beats(hours)) <= hours * BEAT / LONGEST_WAIT + 5
    world.node.away = False
    world.daemon.says = {"unpacked.cern.ch": "degraded"}
    assert world.beats(int(LONGEST_WAIT / BEAT)) == [{FIRST: "degraded"}]
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["node not labelled", "trouble is over", "node labelled"]
    world.daemon.says = {"unpacked.cern.ch": "healthy"}
    assert world.beats() == [{FIRST: "healthy"}]


def test_a_clean_end_takes_the_labels_away() -> None:
    """Ours, and no others; where there are none nothing is asked."""
    world = World()
    world.keeper.end()
    assert world.node.asked == []
    world.beats()
    world.keeper.end()
    assert world.node.labels == {"zone": "a"}


def test_the_end_without_an_api() -> None:
    """Is tried once and no more: the pod must end."""
    world = World()
    world.beats()
    world.node.away = True
    world.keeper.end()
    assert len(world.node.asked) == 2
