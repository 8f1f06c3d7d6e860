"""Commands as processes of their own, and a node for them to tell of."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import AlreadyExists
from snapshotter.snapshotter import remote_name
from tests.snapshotter.daemon import Daemon
from tests.snapshotter.indexing import Published, chain_of
from tests.snapshotter.layers import NAME, pull
from tests.snapshotter.nodes import eventually

IMAGE = "registry.example.org/atlas/athena:25"
CONTAINER = "k8s.io/9/b24f0c"
ABSENT = Digest.of(b"never published")
_PROGRAM = "from snapshotter.cli.main import main; main()"


@dataclass(frozen=True, slots=True)
class Said:
    """What a command said, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def cells(self, row: str) -> list[str]:
        """The line whose first cell is this; cells end where two blanks stand."""
        lines = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in self.out.splitlines()]
        (found,) = (cells for cells in lines if cells[:1] == [row])
        return found


def command(*arguments: str, environment: dict[str, str] | None = None) -> Said:
    """Runs `cvmfs-snapshotter` to its end. It sees no containerd, unless the environment names one."""
    environment = {**os.environ, "CONTAINERD_ADDRESS": "/nowhere/containerd.sock", **(environment or {})}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments], capture_output=True, text=True, check=False, timeout=120,
        stdin=subprocess.DEVNULL, env=environment,
    )  # fmt: skip
    return Said(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True, slots=True)
class Told:
    """A daemon on a repository with one image of two layers, which was pulled and of which a container runs; and a
    snapshot whose layer was missed."""

    daemon: Daemon
    repository: Published
    layers: Sequence[Digest]

    def __call__(self, *arguments: str) -> Said:
        """A command about this node."""
        return command(*arguments, *self.daemon.arguments())

    @property
    def names(self) -> tuple[str, str]:
        """Of the snapshots that show the layers."""
        base = remote_name(str(chain_of(self.layers[:1])), "")
        return base, remote_name(str(chain_of(self.layers)), base)


@contextmanager
def told(directory: Path, **config: object) -> Iterator[Told]:
    """Such a node, with its index read if it keeps one."""
    repository = Published(directory / "repository")
    layers = [repository.add("base", {"etc/a": "a", ".wh.gone": ""}), repository.add("top")]
    for layer in layers:
        repository.describe(layer)
    repository.publish(IMAGE, layers)
    settings = {"repository": NAME, "absolute_mountpoint": repository.root, "index_interval": 0.2, **config}
    with Daemon(directory / "root", **settings) as daemon:
        node = Told(daemon, repository, layers)
        with daemon.client() as client:
            for count in (1, 2):
                target, parent = str(chain_of(layers[:count])), node.names[0] if count == 2 else ""
                with pytest.raises(AlreadyExists):
                    client.prepare("extract", parent, pull(target, layers[count - 1], image=IMAGE))
            client.prepare(CONTAINER, node.names[1], {})
            client.prepare("k8s.io/8/download", "", pull("elsewhere", ABSENT, image="a/b:c"))
        if "index = false" not in str(config.get("tables")):
            eventually(lambda: "repository indexed" in daemon.log.read_text(), 30)
        yield node
