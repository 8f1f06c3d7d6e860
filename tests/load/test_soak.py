"""Sixty-four clients of one daemon, for a minute: every answer is the contract's, and nothing grows."""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import NotFound
from snapshotter import labels as label
from snapshotter.client import Client
from snapshotter.snapshots import Info, Kind
from tests.load.engine import Engine
from tests.load.growth import Sample, assert_steady, seconds, until, watch
from tests.snapshotter.daemon import Daemon
from tests.snapshotter.layers import NAME, HandMade, pull
from tests.snapshotter.test_crash import assert_whole
from tests.suites.contract import upper_of

CLIENTS = 64
NAMESPACES = ("k8s.io", "moby")
STACKS = 12
DEPTH = 4
ABSENT = Digest.of(b"absent")


@pytest.fixture
def repository(tmp_path: Path) -> HandMade:
    """Layers with deletions, so that each has shims of both kinds."""
    return HandMade(tmp_path / "repository")


@pytest.fixture
def daemon(tmp_path: Path, repository: HandMade) -> Iterator[Daemon]:
    """It waits for a repository as long as a busy machine takes: a miss would be a failure here."""
    root = repository.root
    with Daemon(tmp_path / "root", repository=NAME, absolute_mountpoint=root, deadline=60) as node:
        yield node


class Pod:
    """One client: pulls an image of a few published layers and one of its own, runs a container of it, and forgets
    both; over and over."""

    def __init__(self, engine: Engine, stacks: list[list[Digest]], number: int) -> None:
        self._engine, self._stacks = engine, stacks
        self._namespace, self._random = NAMESPACES[number % len(NAMESPACES)], random.Random(number)

    def run(self, client: Client) -> None:
        names = self._pull(client)
        container = self._engine.fresh(self._namespace, "container")
        names += self._start(client, container, names[-1])
        for name in names:
            self._engine.forget(name)

    def _pull(self, client: Client) -> list[str]:
        names, parent, target = list[str](), "", ""
        for layer in self._random.choice(self._stacks):
            target = str(Digest.of(f"{target} {layer}".encode()))
            parent = self._engine.pull(client, self._namespace, parent, pull(target, layer), target)
            names.append(parent)
        return [*names, self._unpack(client, parent)]

    def _unpack(self, client: Client, parent: str) -> str:
        """A layer that the repository does not have."""
        key, name = self._engine.fresh(self._namespace, "extract"), self._engine.fresh(self._namespace, "layer")
        mounts = self._engine.create(client, key, parent, pull("t", ABSENT))
        (upper_of(mounts) / "file").write_text(name)
        assert client.stat(key).labels[label.MISS].startswith("absent: ")
        self._engine.commit(client, key, name)
        assert client.usage(name).inodes == 2
        return name

    def _start(self, client: Client, container: str, image: str) -> list[str]:
        view = self._engine.fresh(self._namespace, "view")
        self._engine.create(client, view, image, {}, view=True)
        mounts = self._engine.create(client, container, image, {})
        (upper_of(mounts) / "written").write_text(container)
        assert client.mounts(container) == mounts
        assert client.usage(container).inodes == 2
        answer = client.update(Info(Kind.ACTIVE, container, "", 0, 0, {"a": "1"}), ["labels.a"])
        assert (answer.labels["a"], answer.parent) == ("1", image)
        return [view, container]


def collect_now_and_then(engine: Engine, client: Client) -> None:
    engine.collect(client)
    time.sleep(0.5)


def ask_as_the_syncer(engine: Engine, client: Client) -> None:
    """CRI's accounting: a list of all, and the usage of each that may have changed or is gone meanwhile."""
    for info in client.walk():
        if info.kind is Kind.ACTIVE:
            try:
                client.usage(info.name)
            except NotFound:
                engine.count("usage of one that went")
    engine.count("sync")
    time.sleep(1)


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(seconds() + 240)
def test_soak(daemon: Daemon, repository: HandMade) -> None:
    """Pulls, containers, views and commits of two namespaces, the collector and the syncer, all at the same time: no
    call is refused that should not be, memory, threads and descriptors stay, and the state is whole."""
    layers = [repository.add(f"layer-{n}", {f"{n}": "", "dir/x": "", "dir/.wh.y": ""}) for n in range(STACKS)]
    stacks = [random.Random(n).sample(layers, DEPTH) for n in range(STACKS)]
    engine, over, deadline = Engine(), threading.Event(), time.monotonic() + seconds()

    def repeat(number: int, work: Callable[[Client], None]) -> None:
        # As many slashes as the client's number: the library shares a connection between equal addresses.
        with Client(f"{daemon.address.parent}{'/' * (number + 1)}{daemon.address.name}") as client:
            while until(deadline) and not over.is_set():
                work(client)

    works: list[Callable[[Client], None]] = [Pod(engine, stacks, number).run for number in range(CLIENTS)]
    works += [lambda client: collect_now_and_then(engine, client), lambda client: ask_as_the_syncer(engine, client)]
    with ThreadPoolExecutor(len(works) + 1) as pool:
        watching = pool.submit(watch, daemon.pid, over)
        futures = [pool.submit(repeat, number, work) for number, work in enumerate(works)]
        try:
            for future in futures:
                future.result()
        finally:
            over.set()
    print(dict(engine.counts), *watching.result()[:: max(1, len(watching.result()) // 10)], sep="\n")
    assert_whole_and_steady(daemon, engine, watching.result())


def assert_whole_and_steady(daemon: Daemon, engine: Engine, samples: list[Sample]) -> None:
    """With something left and with nothing left."""
    assert_steady(samples)
    with daemon.client() as client:
        client.cleanup()
        assert_whole(daemon.root, list(client.walk()), client)
        engine.collect(client)
        assert list(client.walk()) == []
        assert os.listdir(daemon.root / "snapshots") == []
    assert [line for line in daemon.log_lines() if line["msg"] not in ("serving", "remote prepare")] == []
    assert (
        min(engine.counts[word] for word in ("remote", "prepare", "view", "commit", "remove", "collect", "sync")) > 10
    )
