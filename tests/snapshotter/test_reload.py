"""SIGHUP: what may change changes as a whole; what may not is named; calls that run keep what they began with."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import AlreadyExists, FailedPrecondition, InvalidArgument, Unavailable
from snapshotter import labels as label
from snapshotter.admin.address import admin_address
from snapshotter.admin.client import AdminClient
from snapshotter.config import Config, RepositoryConfig
from snapshotter.node import RunningNode
from snapshotter.policy import Policy
from snapshotter.reload import RELOADABLE, Reloader, changed_keys
from snapshotter.server import opened_with_sources
from tests.snapshotter.daemon import Daemon
from tests.snapshotter.layers import NAME, HandMade, pull
from tests.snapshotter.nodes import eventually
from tests.snapshotter.watching import ask, pages_of, scrape, value

NONE = Digest.of(b"none")
REQUIRE = Policy(images=("*",), miss="require")

CHANGED: dict[str, object] = {
    "root": "/other", "address": "/other.sock", "admin_address": "/other-admin.sock", "socket_group": "0",
    "log_level": "debug", "repository": "other.example.org", "absolute_mountpoint": "/other",
    "repositories": (RepositoryConfig("other.example.org"),), "deadline": 1.5, "probe_interval": 1.5,
    "backup_interval": 1.5, "index": False, "index_interval": 1.5, "index_rate": 1.5, "policy": (REQUIRE,),
    "mount_options": ("volatile",), "metrics_address": "127.0.0.1:1",
}  # fmt: skip


@dataclass
class Live:
    """A node and what its next reload reads."""

    reloader: Reloader
    config: Config
    told: list[RunningNode] = field(default_factory=list)

    @property
    def node(self) -> RunningNode:
        return self.reloader.node

    def change(self, **changed: Any) -> None:
        self.config = msgspec.structs.replace(self.config, **changed)
        self.reloader.reload()


@contextmanager
def live(config: Config) -> Iterator[Live]:
    with opened_with_sources(config) as (node, sources):
        made = list[Live]()
        reloader = Reloader(node, sources, lambda: made[0].config, lambda new: made[0].told.append(new))
        made.append(Live(reloader, config))
        yield made[0]


def two(first: Path, second: Path) -> tuple[RepositoryConfig, ...]:
    return RepositoryConfig("a.org", str(first)), RepositoryConfig("b.org", str(second))


def several(config: Config, repositories: tuple[RepositoryConfig, ...]) -> Config:
    return msgspec.structs.replace(config, repository=None, absolute_mountpoint="", repositories=repositories)


def served_by(verbs: Any, layer: Digest, target: str) -> str:
    """The repository that serves a layer."""
    with pytest.raises(AlreadyExists):
        verbs.prepare(f"extract {target}", "", pull(target, layer))
    (info,) = verbs.walk([f'labels."{label.TARGET}"=={target}'])
    return str(info.labels[label.REMOTE])


# --- what may change ---


def test_every_key_is_decided(config: Config) -> None:
    """A new key of the configuration is taken at a reload, or named as one that needs a restart: none is forgotten."""
    assert {field.name for field in msgspec.structs.fields(Config)} == set(CHANGED)
    names = {field.name: field.encode_name for field in msgspec.structs.fields(Config)}
    assert set(names.values()) > RELOADABLE
    for name, changed in CHANGED.items():
        assert changed_keys(config, msgspec.structs.replace(config, **{name: changed})) == [names[name]]


@pytest.mark.parametrize("name", [name for name in CHANGED if name.replace("_", "-") not in RELOADABLE])
def test_what_needs_a_restart_is_named_and_nothing_is_taken(
    config: Config, repository: HandMade, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Not even what could be: half a configuration is none that anybody wrote."""
    with live(config) as node:
        before = node.node
        node.change(policy=(REQUIRE,), deadline=1.0, **{name: CHANGED[name]})
        assert node.node is before
        assert (node.told, node.reloader.refused) == ([], True)
        before.verbs.prepare("key", "", pull("t", NONE))  # the policy would refuse it
    (record,) = [record for record in caplog.records if record.message == "configuration not reloaded"]
    assert record.__dict__["fields"]["keys"] == [name.replace("_", "-")]
    assert "restart the daemon" in record.__dict__["fields"]["remedy"]


def test_a_file_that_cannot_be_read_changes_nothing(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    """The daemon serves on as before, and the line says what is wrong with the file."""
    with live(config) as node:
        before = node.node

        def refuse() -> Config:
            raise InvalidArgument("configuration file", "c.toml", "Expected `str`, got `int` - at `$.root`")

        Reloader(before, None, refuse, node.told.append).reload()  # type: ignore[arg-type]  # it must not be touched
        assert (node.node, node.told) == (before, [])
    assert "Expected `str`" in caplog.records[-1].__dict__["fields"]["detail"]


def test_policies(config: Config, repository: HandMade) -> None:
    """From the next call on, and back again."""
    with live(config) as node:
        node.node.verbs.prepare("before", "", pull("t", NONE))
        node.change(policy=(REQUIRE,))
        with pytest.raises(FailedPrecondition, match="policy is to require"):
            node.node.verbs.prepare("after", "", pull("t", NONE))
        node.change(policy=())
        node.node.verbs.prepare("again", "", pull("t", NONE))


def test_the_log_level(config: Config, repository: HandMade) -> None:
    """Of the whole process."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    try:
        with live(config) as node:
            node.change(log_level="debug")
            assert root.level == logging.DEBUG
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


def test_order_of_repositories(config: Config, tmp_path: Path) -> None:
    """The first one that has a layer serves it; what is known of each stays."""
    first, second = HandMade(tmp_path / "a"), HandMade(tmp_path / "b")
    for repository in (first, second):
        layer = repository.add("layer")
    order = two(first.root, second.root)
    with live(several(config, order)) as node:
        guards = {guard.name: guard for guard in node.node.repositories}
        assert served_by(node.node.verbs, layer, "one") == "a.org"
        node.change(repositories=order[::-1])
        assert [guard.name for guard in node.node.repositories] == ["b.org", "a.org"]
        assert {guard.name: guard for guard in node.node.repositories} == guards
        assert served_by(node.node.verbs, layer, "two") == "b.org"


def test_a_repository_is_added_and_removed(config: Config, tmp_path: Path) -> None:
    """The new one is probed and indexed; on layers of the old one nothing new is mounted, and its prober ends."""
    first, second = HandMade(tmp_path / "a"), HandMade(tmp_path / "b")
    old, new = first.add("old"), second.add("new")
    order = two(first.root, second.root)
    fast = msgspec.structs.replace(several(config, order[:1]), probe_interval=0.05, index_interval=0.05)
    with live(fast) as node:
        verbs = node.node.verbs
        served_by(verbs, old, "one")
        (name,) = [info.name for info in verbs.walk()]
        node.change(repositories=order)
        served_by(verbs, new, "two")
        eventually(lambda: all(guard.is_known for guard in node.node.repositories))
        assert node.node.index is not None
        index = node.node.index
        eventually(lambda: index.state("b.org").complete)
        node.change(repositories=order[1:])
        with pytest.raises(Unavailable, match=r"repository a\.org is not configured any more"):
            verbs.prepare("container", name, {})
        verbs.prepare("missed", "", pull("three", Digest.of(b"other")))
        eventually(lambda: not [t for t in threading.enumerate() if t.name in ("prober of a.org", "indexer of a.org")])
        assert [t for t in threading.enumerate() if t.name in ("prober of b.org", "indexer of b.org")]
        node.change(repositories=order)
        verbs.prepare("container", name, {})


def test_deadlines_are_the_guards_own(config: Config, repository: HandMade) -> None:
    """With another deadline a repository has another guard, and one prober."""
    with live(config) as node:
        (before,) = node.node.repositories
        node.change(deadline=1.5, probe_interval=0.5)
        (after,) = node.node.repositories
        assert (after.deadline, after.interval) == (1.5, 0.5)
        assert after is not before
        assert before.deadline == config.deadline
        eventually(lambda: sum(thread.name == f"prober of {NAME}" for thread in threading.enumerate()) == 1)


# --- calls that run ---


def test_a_call_that_runs_keeps_its_policy_and_its_repositories(config: Config, tmp_path: Path) -> None:
    """A Prepare that waits for a layer finds it where it began to look, although that repository is gone from the
    configuration, and although pulls are refused by now."""
    first, second = HandMade(tmp_path / "a"), HandMade(tmp_path / "b")
    order = two(first.root, second.root)
    waiting = Policy(images=("*",), miss="wait", wait=20.0)
    with live(msgspec.structs.replace(several(config, order[:1]), policy=(waiting,))) as node:
        verbs, outcome = node.node.verbs, list[str]()
        thread = threading.Thread(target=lambda: outcome.append(served_by(verbs, Digest.of(b"late"), "t")))
        thread.start()
        eventually(lambda: verbs._waiting._value < 64)
        node.change(repositories=order[1:], policy=(REQUIRE,))
        with pytest.raises(FailedPrecondition):
            verbs.prepare("new", "", pull("u", Digest.of(b"late")))
        assert outcome == []
        first.add("late")
        thread.join(20)
        assert outcome == ["a.org"]


def test_no_call_sees_a_mixture(config: Config, tmp_path: Path) -> None:
    """While the configuration changes back and forth, each Prepare is answered by one of the two: served, or refused
    by the policy that goes with the repository that lacks the layer; never downloaded."""
    first, second = HandMade(tmp_path / "a"), HandMade(tmp_path / "b")
    layer = first.add("layer")
    order = two(first.root, second.root)
    with live(several(config, order[:1])) as node:
        verbs, over, odd = node.node.verbs, threading.Event(), list[str]()

        def prepare(worker: int) -> None:
            number = 0
            while not over.is_set():
                number += 1
                try:
                    verbs.prepare(f"{worker} {number}", "", pull(f"{worker} {number}", layer))
                    odd.append(f"{worker} {number} was downloaded")
                except (AlreadyExists, FailedPrecondition):
                    pass

        threads = [threading.Thread(target=prepare, args=(worker,)) for worker in range(3)]
        for thread in threads:
            thread.start()
        for turn in range(40):
            changed = {"repositories": order[1:], "policy": (REQUIRE,)} if turn % 2 == 0 else None
            node.change(**(changed or {"repositories": order[:1], "policy": ()}))
        over.set()
        for thread in threads:
            thread.join()
        assert odd == []


# --- the daemon ---


def written(daemon: Daemon, change: Callable[[str], str]) -> None:
    path = daemon.configuration
    path.write_text(change(path.read_text()))
    lines = len(daemon.log_lines())
    daemon.signal(signal.SIGHUP)
    eventually(lambda: any("reloaded" in str(line.get("msg")) for line in daemon.log_lines()[lines:]))


@pytest.mark.slow
def test_a_daemon_reloads(tmp_path: Path, repository: HandMade) -> None:
    """By SIGHUP, as systemctl reload sends it: the log, the metrics, the probes and the admin service tell of the new
    configuration, and a refused file is a metric until it is mended."""
    layer = HandMade(tmp_path / "b").add("new")
    with Daemon(
        tmp_path / "root", repository=NAME, absolute_mountpoint=repository.root, metrics_address="127.0.0.1:0",
        probe_interval=0.1,
    ) as daemon, daemon.client() as client:  # fmt: skip
        pages = pages_of(daemon)
        written(daemon, lambda text: text + "mount-options = ['volatile']\n")
        assert daemon.log_lines()[-1]["keys"] == ["mount-options"]
        assert value(scrape(pages), "config_refused") == 1
        moved = f'probe-interval = 0.2\n[[repositories]]\nname = "b.org"\npath = "{tmp_path}/b"\n'
        written(daemon, lambda _: f'metrics-address = "127.0.0.1:0"\n{moved}')
        line = daemon.log_lines()[-1]
        assert (line["msg"], line["added"], line["removed"]) == ("configuration reloaded", ["b.org"], [NAME])
        assert line["keys"] == ["repository", "absolute-mountpoint", "repositories", "probe-interval"]
        assert served_by(client, layer, "t") == "b.org"
        samples = scrape(pages)
        assert value(samples, "config_refused") == 0
        assert value(samples, "hits_total", repository="b.org") == 1
        assert {s.labels["repository"] for s in samples if s.name.endswith("_repository_state")} == {"b.org"}
        (tmp_path / "b").rename(tmp_path / "away")
        eventually(lambda: ask(pages, "/readyz").text.startswith("repository b.org is degraded"))
        with AdminClient(admin_address(Config(address=str(daemon.address)))) as admin:
            assert [one.name for one in admin.status().repositories] == ["b.org"]


@pytest.mark.slow
def test_a_file_that_is_gone(tmp_path: Path, repository: HandMade) -> None:
    """Is not the wish for all defaults."""
    with Daemon(tmp_path / "root", repository=NAME, absolute_mountpoint=repository.root) as daemon:
        daemon.configuration.unlink()
        lines = len(daemon.log_lines())
        daemon.signal(signal.SIGHUP)
        eventually(lambda: len(daemon.log_lines()) > lines)
        assert "is gone" in daemon.log_lines()[-1]["detail"]
        assert daemon.stop() == 0
