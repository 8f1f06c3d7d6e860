"""Bursts of calls that wait for a repository: the threads that come for them take with them what they held."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from snapshotter import labels as label
from snapshotter.client import Client
from snapshotter.snapshots import Kind
from tests.load.growth import Sample, sample
from tests.snapshotter.daemon import Daemon
from tests.snapshotter.layers import NAME, HandMade, pull

BURST = 12
ROUNDS = [pytest.param(4, id="some"), pytest.param(10, id="many")]


@pytest.fixture
def repository(tmp_path: Path) -> HandMade:
    return HandMade(tmp_path / "repository")


@pytest.fixture
def daemon(tmp_path: Path, repository: HandMade) -> Iterator[Daemon]:
    with Daemon(tmp_path / "root", repository=NAME, absolute_mountpoint=repository.root, deadline=60) as daemon:
        yield daemon


@pytest.mark.slow
@pytest.mark.parametrize("rounds", ROUNDS)
def test_threads_that_came_for_a_burst_leave_nothing(daemon: Daemon, repository: HandMade, rounds: int) -> None:
    """Again and again a dozen Prepares wait for a third of a second: each is answered, with a miss, for the record is
    empty; and in the end the daemon has no more memory, threads and descriptors than after the second time."""
    samples = list[Sample]()
    with ThreadPoolExecutor(BURST) as pool, daemon.client() as client:
        for round_ in range(rounds):
            layer = repository.add(f"late-{round_}")
            lease = repository.stall_record(layer)
            calls = [pool.submit(prepare_and_remove, client, f"key-{number}", layer) for number in range(BURST)]
            time.sleep(0.3)
            assert not any(call.done() for call in calls)
            os.close(lease)
            for call in calls:
                call.result()
            samples.append(sample(daemon.pid))
    before, after = samples[1], samples[-1]
    assert after.threads - before.threads <= 4, samples
    assert after.descriptors - before.descriptors <= 12, samples
    assert after.memory - before.memory <= 8 << 20, samples


def prepare_and_remove(client: Client, key: str, layer: Digest) -> None:
    client.prepare(key, "", pull("t", layer))
    info = client.stat(key)
    assert (info.kind, info.labels[label.MISS].split(":")[0]) == (Kind.ACTIVE, "markers-unavailable")
    client.remove(key)
