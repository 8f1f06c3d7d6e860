"""What a process holds over time, and whether it grows."""

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

# A busy machine may bring the peak of workers after the warm-up: some thirty more, each with its stack, its connection
# to the database and that one's three files and page cache. What leaks with a few calls is ten times more in a minute.
THREAD_SLACK = 32
DESCRIPTOR_SLACK = 108
MEMORY_SLACK = 24 << 20


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a process: resident bytes, threads, descriptors."""

    memory: int
    threads: int
    descriptors: int


def sample(pid: int) -> Sample:
    """What the process holds now."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    return Sample(int(status["VmRSS"].split()[0]) << 10, int(status["Threads"]), descriptors)


def watch(pid: int, over: threading.Event, every: float = 0.5) -> list[Sample]:
    """Samples until it is over."""
    samples = [sample(pid)]
    while not over.wait(every):
        samples.append(sample(pid))
    return samples


def growth(samples: list[Sample]) -> Sample:
    """From the second quarter to the last: the first one is warm-up. Medians, for single calls come and go."""
    quarter = len(samples) // 4
    before, after = _middle(samples[quarter : 2 * quarter]), _middle(samples[-quarter:])
    return Sample(
        after.memory - before.memory, after.threads - before.threads, after.descriptors - before.descriptors
    )  # fmt: skip


def assert_steady(samples: list[Sample]) -> None:
    """Nothing grew by more than its slack."""
    found = growth(samples)
    assert found.memory <= MEMORY_SLACK, (found, samples)
    assert found.threads <= THREAD_SLACK, (found, samples)
    assert found.descriptors <= DESCRIPTOR_SLACK, (found, samples)


def seconds(default: float = 60.0) -> float:
    """Wall time of a load test: `SOAK_SECONDS` in the environment, for longer runs."""
    return float(os.environ.get("SOAK_SECONDS", default))


def until(deadline: float) -> bool:
    return time.monotonic() < deadline


def _middle(samples: list[Sample]) -> Sample:
    return Sample(
        int(median(s.memory for s in samples)),
        int(median(s.threads for s in samples)),
        int(median(s.descriptors for s in samples)),
    )
