"""A repository that does not answer, seen from outside: a daemon on a mount that stalls, over its socket."""

import itertools
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import AlreadyExists, FailedPrecondition
from snapshotter import labels as label
from snapshotter.client import Client
from snapshotter.server import GRACE
from tests import mounting
from tests.mounting import Standin
from tests.snapshotter.daemon import Daemon
from tests.snapshotter.layers import HandMade, pull
from tests.snapshotter.nodes import eventually
from tests.suites.contract import committed, fresh

pytestmark = [pytest.mark.root, pytest.mark.fuse]

AT_ONCE = 64
NEVER = 300.0
"""Seconds between probes of a test that wants none."""
REQUIRED = """
[[policy]]
images = ["required/*"]
miss = "require"
"""
_targets = itertools.count()


@dataclass(frozen=True, slots=True)
class Place:
    """A repository, its mount, and where a daemon may have its state."""

    repository: HandMade
    standin: Standin
    root: Path

    @contextmanager
    def daemon(self, deadline: float, probe_interval: float, tables: str = "") -> Iterator[Daemon]:
        """A daemon on the mount. Faults end before it does: a process with a call that hangs cannot end."""
        settings = {"deadline": deadline, "probe_interval": probe_interval}
        with Daemon(self.root, absolute_mountpoint=self.standin.mountpoint, tables=tables, **settings) as daemon:
            try:
                yield daemon
            finally:
                self.standin.clear()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A mount that remembers as a real client's does."""
    mounting.needs_fuse()
    repository = HandMade(tmp_path / "source")
    with mounting.standin(repository.root, tmp_path / "mount", kcache=60, negative=60) as standin:
        yield Place(repository, standin, tmp_path / "root")


def outcome(client: Client, layer: Digest, image: str = "a/b:c") -> tuple[str, float]:
    """How a Prepare of a pull ended ("hit" or the reason of the miss), and how long it took."""
    key, began = fresh("extract"), time.monotonic()
    try:
        client.prepare(key, "", pull(f"target-{next(_targets)}", layer, image=image))
    except AlreadyExists:
        return "hit", time.monotonic() - began
    except FailedPrecondition as error:
        return str(error).partition("is not served (")[2].partition(":")[0], time.monotonic() - began
    seconds = time.monotonic() - began
    return client.stat(key).labels[label.MISS].partition(":")[0], seconds


def unknown(number: int) -> Digest:
    return Digest.of(f"layer {number}".encode())


def outcomes_at_once(daemon: Daemon, count: int = AT_ONCE) -> list[tuple[str, float]]:
    """Of Prepares of as many different layers."""
    clients = [daemon.client() for _ in range(8)]
    with ThreadPoolExecutor(count) as callers:
        return list(callers.map(lambda number: outcome(clients[number % 8], unknown(number)), range(count)))


def test_every_prepare_returns_at_the_deadline(place: Place) -> None:
    """64 at one time, each about a layer that hangs: all are answered within the deadline and one second, with a
    reason, and none by a breaker that a probe has opened before."""
    with place.daemon(2.0, NEVER) as daemon:
        outcome(daemon.client(), unknown(-1))
        place.standin.fault("stall")
        ended = outcomes_at_once(daemon)
        assert {reason for reason, _ in ended} <= {"timeout", "breaker-open"}
        assert sum(reason == "timeout" for reason, _ in ended) > AT_ONCE / 2
        assert max(seconds for _, seconds in ended) < 3.0


def latencies(client: Client, rounds: int = 40) -> dict[str, float]:
    """The median time of each verb on a local snapshot, in seconds."""
    times: dict[str, list[float]] = {"stat": [], "list": [], "commit": [], "remove": []}

    def timed(verb: str, call: Callable[[], object]) -> None:
        began = time.monotonic()
        call()
        times[verb].append(time.monotonic() - began)

    for _ in range(rounds):
        key, name = fresh("key"), fresh("name")
        client.prepare(key, "", {})
        timed("stat", lambda key=key: client.stat(key))  # type: ignore[misc]
        timed("list", lambda: list(client.walk()))
        timed("commit", lambda key=key, name=name: client.commit(name, key, {}))  # type: ignore[misc]
        timed("remove", lambda name=name: client.remove(name))  # type: ignore[misc]
    return {verb: statistics.median(of_verb) for verb, of_verb in times.items()}


def test_other_calls_keep_their_latency(place: Place) -> None:
    """While 64 Prepares hang, Stat, List, Commit and Remove of other snapshots take no more than a few times as long
    as before, by the median."""
    with place.daemon(30.0, NEVER) as daemon, ThreadPoolExecutor(AT_ONCE) as callers:
        client = daemon.client()
        latencies(client)
        before = latencies(client)
        place.standin.fault("stall")
        hanging = [callers.submit(outcome, client, unknown(number)) for number in range(AT_ONCE)]
        place.standin.wait_until_held(1)
        time.sleep(0.5)
        during = latencies(client)
        assert not any(one.done() for one in hanging)
        place.standin.clear()
        assert {one.result()[0] for one in hanging} == {"absent"}
    ratios = {verb: during[verb] / before[verb] for verb in before}
    assert max(ratios.values()) < 4, (ratios, before, during)


def test_the_first_to_hang_open_and_the_rest_do_not_wait(place: Place) -> None:
    """One after the other: three Prepares wait for their deadline, then all are answered at once."""
    with place.daemon(0.5, NEVER) as daemon:
        client = daemon.client()
        place.standin.fault("stall")
        ended = [outcome(client, unknown(number)) for number in range(20)]
        assert [reason for reason, _ in ended] == ["timeout"] * 3 + ["breaker-open"] * 17
        assert statistics.median(seconds for _, seconds in ended[3:]) < 0.1
        lines = [line for line in daemon.log_lines() if line.get("reason") == "breaker-open"]
        assert "has not answered for" in lines[-1]["detail"]


def test_the_prober_opens_before_a_prepare_waits(place: Place) -> None:
    """After a probe went without an answer no Prepare waits; it is one probe that hangs, not one each interval."""
    layer = place.repository.add("base")
    with place.daemon(0.3, 0.2) as daemon:
        client = daemon.client()
        assert outcome(client, layer)[0] == "hit"
        place.standin.fault("stall")
        time.sleep(1.5)
        assert outcome(client, layer)[0] == "breaker-open"
        assert place.standin.held() == 1


def test_a_stall_that_clears(place: Place) -> None:
    """Within a probe interval Prepares are hits again, each of the layers that hung, without a restart."""
    layers = [place.repository.add(f"{number}") for number in range(40)]
    with place.daemon(1.0, 0.5) as daemon:
        client = daemon.client()
        place.standin.fault("stall")
        with ThreadPoolExecutor(40) as callers:
            ended = list(callers.map(lambda layer: outcome(client, layer)[0], layers))
        assert "timeout" in ended
        assert "hit" not in ended
        place.standin.clear()
        cleared = time.monotonic()
        eventually(lambda: outcome(client, layers[0])[0] == "hit", 2.0)
        assert time.monotonic() - cleared < 1.0
        assert {outcome(client, layer)[0] for layer in layers} == {"hit"}


def test_a_stuck_mount_that_is_replaced(place: Place) -> None:
    """The mount that hangs is taken away lazily and another is mounted in its place, while calls hang on the old one
    for ever: the new one serves all layers within a probe interval, without a restart."""
    layers = [place.repository.add(f"{number}") for number in range(40)]
    with place.daemon(1.0, 0.5) as daemon:
        client, stuck = daemon.client(), place.standin.process
        try:
            place.standin.fault("stall")
            with ThreadPoolExecutor(40) as callers:
                hanging = [callers.submit(outcome, client, layer) for layer in layers]
                place.standin.wait_until_held(10)
                place.standin.reappear()
                assert {one.result()[0] for one in hanging} <= {"timeout", "breaker-open", "unmounted", "hit"}
            eventually(lambda: outcome(client, layers[0])[0] == "hit", 2.0)
            time.sleep(1.0)  # calls of the old mount are given up by now
            assert {outcome(client, layer)[0] for layer in layers} == {"hit"}
        finally:
            stuck.kill()


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process holds: resident memory in KiB, threads, descriptors."""

    memory: int
    threads: int
    descriptors: int


def footprint(pid: int) -> Footprint:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    values = {line.partition(":")[0]: line.split()[1] for line in lines if len(line.split()) > 1}
    return Footprint(int(values["VmRSS"]), int(values["Threads"]), len(os.listdir(f"/proc/{pid}/fd")))


def test_ten_thousand_stalled_calls(place: Place) -> None:
    """Neither memory nor threads nor descriptors grow with their number, and afterwards the layer is a hit. A policy
    refuses each, so that none leaves a snapshot behind."""
    layer = place.repository.add("base")
    with place.daemon(0.2, 0.5, REQUIRED) as daemon, ThreadPoolExecutor(AT_ONCE) as callers:
        clients = [daemon.client() for _ in range(8)]

        def refused(number: int) -> str:
            return outcome(clients[number % 8], unknown(number), "required/image:1")[0]

        place.standin.fault("stall")
        first = set(callers.map(refused, range(2_000)))
        before = footprint(daemon.pid)
        rest = set(callers.map(refused, range(2_000, 12_000)))
        after = footprint(daemon.pid)
        assert first | rest <= {"timeout", "breaker-open"}
        assert after.threads < 256 + 128
        assert after.threads <= before.threads + 10
        assert after.descriptors <= before.descriptors + 40
        assert after.memory <= before.memory + 16_384
        place.standin.clear()
        eventually(lambda: outcome(clients[0], layer)[0] == "hit", 5.0)
        eventually(lambda: footprint(daemon.pid).threads < 60)


def state_of(pid: int) -> str:
    """The kernel's letter for a process: Z where it has ended but for threads that the kernel waits for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "gone"


def test_sigterm_while_calls_hang(place: Place) -> None:
    """It stops within its grace: its socket and its lock are free, and the next daemon serves on the same state. What
    is left is a process that the kernel keeps until the mount answers, then it is gone with status 0."""
    with place.daemon(60.0, NEVER) as daemon, ThreadPoolExecutor(AT_ONCE) as callers:
        client = daemon.client()
        name = committed(client)
        place.standin.fault("stall")
        hanging = [callers.submit(outcome, client, unknown(number)) for number in range(AT_ONCE)]
        place.standin.wait_until_held(8)
        began = time.monotonic()
        daemon.signal(signal.SIGTERM)
        eventually(lambda: state_of(daemon.pid) in ("Z", "gone"), GRACE + 5)
        assert time.monotonic() - began < GRACE + 2
        assert not daemon.address.exists()
        with place.daemon(0.5, NEVER) as following:
            assert following.client().stat(name).name == name
        assert daemon.wait() == 0
        assert all(one.exception() for one in hanging)
