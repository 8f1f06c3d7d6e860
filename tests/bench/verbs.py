"""The verbs over the socket, both servers side by side: with few snapshots, with 1,000 and with 10,000."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.bench.load import Timing, run_load
from tests.bench.repository import write_layers
from tests.bench.samples import Row, Samples, Target
from tests.bench.servers import Server, ours, overlayfs

CLIENTS = 16
MEGA = 10**6

CYCLE = {verb: Row(f"{verb}, 1 client") for verb in ("Prepare", "Mounts", "Commit", "Remove")}
WHOLE = Row("whole cycle, 1 client", target=Target(ratio=1.1))
WHOLE_MANY = Row(f"whole cycle, {CLIENTS} clients", target=Target(ratio=0.8))
STAT = Row("Stat", target=Target(ratio=2.5))
MISS = Row("Prepare of a layer that is not published")
FIRST = Row("Prepare of a published layer, the node's first")
AGAIN = Row("Prepare of a published layer, again")
LIST_1000 = Row("List of 1,000")
LIST_10000 = Row("List of 10,000")
MEMORY = Row("resident memory with 10,000", "B", Target(value=80 * MEGA))
START = Row("from start to serving with 10,000", target=Target(value=1.0))
ROWS = (*CYCLE.values(), WHOLE, WHOLE_MANY, STAT, FIRST, AGAIN, MISS, LIST_1000, LIST_10000, MEMORY, START)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    rounds: int
    calls: int
    layers: int
    starts: int


WHOLE_SIZE = Size(rounds=7, calls=300, layers=60, starts=5)
QUICK = Size(rounds=2, calls=60, layers=20, starts=1)


def measure(directory: Path, size: Size, say: Callable[[str], None]) -> Samples:
    """Everything about the verbs; `directory` has a short name, for the sockets are below it."""
    say("writing a repository")
    layers = write_layers(directory / "repository", size.layers * size.rounds)
    digests = directory / "digests"
    digests.write_text("\n".join(layers) + "\n")
    servers = [
        Server(overlayfs(), directory / "overlayfs"),
        Server(ours(directory / "config.toml", directory / "repository"), directory / "ours"),
    ]
    samples = Samples()
    with ExitStack() as running:
        for server in servers:
            running.enter_context(server)
            run_load(server.address, "cycle", size.calls, CLIENTS)
        for number, server in _turns(servers, size.rounds):
            say(f"round {number + 1} of {size.rounds}: {server.name}")
            _measure_few(samples, server, size)
            _measure_remote(samples, server, size, digests, number * size.layers)
        _measure_many(samples, servers, size, say)
    return samples


def _turns(servers: list[Server], rounds: int) -> Iterator[tuple[int, Server]]:
    """Each server in each round; who is first changes."""
    for number in range(rounds):
        for server in servers if number % 2 else reversed(servers):
            yield number, server


def _measure_few(samples: Samples, server: Server, size: Size) -> None:
    cycle = run_load(server.address, "cycle", size.calls)
    for verb, row in CYCLE.items():
        samples.add(row, server.name, cycle[verb].median)
    samples.add(WHOLE, server.name, cycle["whole cycle"].median)
    many = run_load(server.address, "cycle", 3 * size.calls, CLIENTS)
    samples.add(WHOLE_MANY, server.name, 1 / many["whole cycle"].per_second)
    samples.add(STAT, server.name, run_load(server.address, "stat", 3 * size.calls)["Stat"].median)


def _measure_remote(samples: Samples, server: Server, size: Size, digests: Path, skip: int) -> None:
    """overlayfs takes labels for nothing: its Prepare with them is what the others stand beside."""

    def prepare(phase: str) -> Timing:
        return run_load(server.address, phase, size.layers, digests=digests, skip=skip)["Prepare"]

    missed = prepare("miss").median
    samples.add(MISS, server.name, missed)
    for row in (FIRST, AGAIN):
        samples.add(row, server.name, prepare("hit").median if server.name == "ours" else missed)


def _measure_many(samples: Samples, servers: list[Server], size: Size, say: Callable[[str], None]) -> None:
    for row, count in ((LIST_1000, 1_000), (LIST_10000, 10_000)):
        for server in servers:
            say(f"filling with {count:,} snapshots: {server.name}")
            run_load(server.address, "fill", count, CLIENTS)
        for _, server in _turns(servers, size.rounds):
            samples.add(row, server.name, run_load(server.address, "list", 10)["List"].median)
    for server in servers:
        samples.add(MEMORY, server.name, server.resident())
    for number, server in _turns(servers, size.starts):
        say(f"start {number + 1} of {size.starts}: {server.name}")
        server.stop()
        samples.add(START, server.name, server.start())
