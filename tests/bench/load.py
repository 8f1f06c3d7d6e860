"""Runs the load generator and reads what it measured."""

import subprocess
from pathlib import Path

import msgspec

from tests.engines.process import EngineError
from tests.peers import build


class Timing(msgspec.Struct, frozen=True):
    """One operation in one phase; times are in seconds, `per_second` is the rate of all clients together."""

    phase: str
    operation: str
    clients: int
    count: int
    median: float
    p95: float
    per_second: float


def run_load(
    address: Path, phase: str, count: int, clients: int = 1, digests: Path | None = None, skip: int = 0
) -> dict[str, Timing]:
    """The timings of one phase by operation."""
    command = [str(build.program(build.LOAD)), "-address", str(address), "-phases", phase, "-n", str(count)]
    command += ["-clients", str(clients), "-skip", str(skip)]
    command += ["-digests", str(digests)] if digests else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise EngineError(f"load {phase!r} on {str(address)!r}: {done.stderr.strip()[-2000:]}")
    timings = [msgspec.json.decode(line, type=Timing) for line in done.stdout.splitlines()]
    return {timing.operation: timing for timing in timings}
