"""The daemon ends, as asked or by a kill at any moment, and nothing that it had answered is lost."""

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import AlreadyExists, ContractError, NotFound, Unavailable
from snapshotter import labels as label
from snapshotter.client import Client
from snapshotter.snapshots import Info, Kind
from snapshotter.snapshotter import remote_name
from tests.snapshotter.daemon import Daemon
from tests.snapshotter.layers import NAME, HandMade, lookup, pull
from tests.snapshotter.nodes import eventually
from tests.suites.contract import upper_of

pytestmark = pytest.mark.slow

ROUNDS = 30
CLIENTS = 3
LAYERS = 40


@pytest.fixture
def daemon(tmp_path: Path, repository: HandMade) -> Iterator[Daemon]:
    with Daemon(tmp_path / "root", repository=NAME, absolute_mountpoint=repository.root, deadline=1.5) as daemon:
        yield daemon


@dataclass(slots=True)
class Told:
    """What a stream of calls was told: names that must be there, names that must not, and the call that failed."""

    committed: dict[str, str] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    calls: int = 0


class Stream:
    """One client's calls, until the daemon dies under it. Every call can be told again from `todo`."""

    def __init__(self, word: str, layers: list[Digest], seed: int) -> None:
        self._word, self._layers, self._random = word, layers, random.Random(seed)
        self.told = Told()
        self._number = 0
        self.failed: tuple[str, str] | None = None

    def run(self, daemon: Daemon) -> None:
        """Calls until one fails for want of a server."""
        with daemon.client() as client, contextlib.suppress(_Gone):
            while True:
                self._number += 1
                self._cycle(client, f"{self._word}-{self._number}")

    def _cycle(self, client: Client, name: str) -> None:
        told = self.told
        layer = self._random.choice(self._layers)
        parent = self._random.choice(["", *list(told.committed)[-3:]])
        if self._random.random() < 0.4:
            self._say("prepare", f"{name}-remote")
            with _call(), pytest.raises(AlreadyExists, match="is served"):
                client.prepare(f"{name}-remote", parent, pull(f"{layer}", layer))
            told.committed[remote_name(f"{layer}", parent)] = parent
            told.removed.discard(remote_name(f"{layer}", parent))
            return
        self._say("prepare", name)
        with _call():
            mounts = client.prepare(f"{name}-key", parent, {})
        (upper_of(mounts) / "file").write_text(name)
        self._say("commit", name)
        with _call():
            client.commit(name, f"{name}-key", {"by": self._word})
        told.committed[name] = parent
        told.removed.add(f"{name}-key")
        if self._random.random() < 0.5:
            self._remove(client, name)

    def _remove(self, client: Client, name: str) -> None:
        self._say("remove", name)
        self.told.committed.pop(name)
        with _call():
            client.remove(name)
        self.told.removed.add(name)

    def _say(self, verb: str, name: str) -> None:
        self.failed = (verb, name)
        self.told.calls += 1


class _Gone(Exception):
    """The server died."""


@contextlib.contextmanager
def _call() -> Iterator[None]:
    try:
        yield
    except ContractError as error:
        if error.thing == "answer" and error.value in ("UNAVAILABLE", "CANCELLED", "UNKNOWN"):
            raise _Gone from None
        raise


def directories(root: Path) -> set[str]:
    return set(os.listdir(root / "snapshots"))


def assert_whole(root: Path, infos: list[Info], client: Client) -> None:
    """Every record has its directory, every link leads somewhere, and everything can be mounted."""
    assert len(directories(root)) == len(infos)
    for path in (root / "snapshots").iterdir():
        assert path.name.isdigit(), path
        assert (path / "fs").is_dir()
        for name in ("h", "w"):
            assert not (path / name).is_symlink() or (path / name).is_dir(), path
    assert [name for place in ("shims", "layers") for name in os.listdir(root / place) if name.startswith("new-")] == []
    for info in infos:
        if info.kind is not Kind.COMMITTED:
            client.mounts(info.name)


def repeat(client: Client, verb: str, name: str) -> None:
    """The call that got no answer, once more, as containerd does it: it works, or it had worked."""
    if verb == "prepare" and not name.endswith("-remote"):
        with contextlib.suppress(AlreadyExists):
            client.prepare(f"{name}-key", "", {})
        assert client.stat(f"{name}-key").kind is Kind.ACTIVE
    elif verb == "commit":
        with contextlib.suppress(NotFound):
            client.commit(name, f"{name}-key", {})
        assert client.stat(name).kind is Kind.COMMITTED
    elif verb == "remove":
        with contextlib.suppress(NotFound):
            client.remove(name)


@pytest.mark.root
def test_kill_at_any_moment(daemon: Daemon, repository: HandMade) -> None:
    """Thirty times in the middle of three streams of calls: what was answered stands, what was not can be repeated,
    and no directory without a record is left."""
    layers = [repository.add(f"layer-{number}", {"a": "", f".wh.{number}": ""}) for number in range(LAYERS)]
    streams = [Stream(word, layers, seed) for seed, word in enumerate("abc"[:CLIENTS])]
    chance = random.Random(2)
    for _ in range(ROUNDS):
        threads = [threading.Thread(target=stream.run, args=(daemon,)) for stream in streams]
        for thread in threads:
            thread.start()
        time.sleep(chance.uniform(0.02, 0.25))
        daemon.kill9()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        daemon.start()
        with daemon.client() as client:
            infos = {info.name: info for info in client.walk()}
            assert_whole(daemon.root, list(infos.values()), client)
            for stream in streams:
                lost = {name for name, parent in stream.told.committed.items() if name not in infos}
                assert lost == set()
                assert {name: infos[name].parent for name in stream.told.committed} == stream.told.committed
                assert stream.told.removed.isdisjoint(infos)
                assert stream.failed is not None
                repeat(client, *stream.failed)
            before = directories(daemon.root)
            client.cleanup()
            assert directories(daemon.root) == before
    assert sum(stream.told.calls for stream in streams) > 10 * ROUNDS


@pytest.mark.root
def test_a_kill_leaves_the_served_layers(daemon: Daemon, repository: HandMade) -> None:
    """The stale socket is no hindrance, nothing has to be mounted again, and mounts are as they were."""
    layer = repository.add("base")
    with daemon.client() as client:
        with pytest.raises(AlreadyExists):
            client.prepare("extract", "", pull("a", layer))
        (name,) = lookup(client, "a", "")
        mounts = client.prepare("container", name, {})
    daemon.kill9()
    assert daemon.address.is_socket()
    daemon.start()
    with daemon.client() as client:
        assert client.mounts("container") == mounts
        assert lookup(client, "a", "") == [name]


def test_a_client_stays_through_a_restart(daemon: Daemon) -> None:
    """containerd keeps its connection; its next call finds the new server."""
    with daemon.client() as client:
        client.prepare("key", "", {})
        daemon.restart()

        def answers() -> bool:
            try:
                return client.stat("key").kind is Kind.ACTIVE
            except Unavailable:
                return False

        eventually(answers)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_daemon_ends_when_asked(daemon: Daemon, number: signal.Signals) -> None:
    """At once, with exit status 0, without its socket, its write-ahead log folded in."""
    with daemon.client() as client:
        client.prepare("key", "", {})
    started = time.monotonic()
    daemon.signal(number)
    assert daemon.wait() == 0
    assert time.monotonic() - started < 3
    assert not daemon.address.exists()
    assert [path.name for path in daemon.root.glob("metadata.sqlite*")] == ["metadata.sqlite"]
    assert [line["msg"] for line in daemon.log_lines()] == ["serving", "stopping"]


def test_a_running_call_ends_before_the_daemon(daemon: Daemon, repository: HandMade) -> None:
    """A Prepare that waits for a repository gets its answer after SIGTERM; a new call gets none. A thread that
    hangs in the repository does not keep the process."""
    layer = repository.add("base")
    lease = repository.stall_record(layer)
    outcome: list[Info] = []

    def prepare() -> None:
        with daemon.client() as client:
            assert client.prepare("key", "", pull("a", layer))
            outcome.append(Info(Kind.ACTIVE, "key", "", 0, 0))

    thread = threading.Thread(target=prepare)
    thread.start()
    time.sleep(0.5)
    daemon.signal()
    time.sleep(0.2)
    with daemon.client() as client, pytest.raises(ContractError, match="UNAVAILABLE"):
        client.stat("key")
    assert daemon.wait() == 0
    os.close(lease)
    thread.join(10)
    assert len(outcome) == 1
    assert not daemon.address.exists()
    daemon.start()
    with daemon.client() as client:
        assert client.stat("key").labels[label.MISS].startswith("timeout: ")


def test_the_log_is_json_lines(daemon: Daemon, repository: HandMade) -> None:
    """Every line that the daemon writes, from the start to the end."""
    with daemon.client() as client:
        client.prepare("key", "", pull("a\n\x1b", Digest.of(b"none"), image="ü"))
    assert daemon.stop() == 0
    lines = daemon.log_lines()
    assert [line.get("msg") for line in lines] == ["serving", "remote prepare", "stopping"]
    assert lines[1]["reason"] == "absent"
