"""A node for the commands that ask containerd: one engine of one version over our daemon, and its world."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from cvmfsrepo.digest import Digest, chain_id
from snapshotter.admin.address import admin_address
from snapshotter.admin.client import AdminClient
from snapshotter.cli.fsck import fsck
from snapshotter.config import Config
from snapshotter.snapshots import Info
from tests.engines.busybox import push_pause, write_busybox
from tests.engines.containerd import Containerd
from tests.engines.cri import Cri
from tests.engines.node import Snapshotter
from tests.engines.registry import Registry
from tests.fidelity.publishing import publish
from tests.images.ocilayout import Image
from tests.images.tarlayer import Dir, File, Whiteout
from tests.mounting import standin

_ONE = [Dir("data"), File("data/one", b"one\n"), File("data/gone", b"x")]
_TWO = [File("data/two", b"two\n"), Whiteout("data/gone")]
_OWN = [File("data/own", b"of the user\n")]
SHOW = ["/bin/sh", "-c", "cat /data/one /data/two; ls -A /data"]
SHOWN = "one\ntwo\none\ntwo\n"
"""What the base image shows."""


@dataclass(frozen=True)
class World:
    """A registry and a repository that have the base image; the registry alone has the user's."""

    registry: Registry
    sandbox: str
    mountpoint: Path
    base: Image
    user: Image

    def reference(self, image: Image) -> str:
        return self.registry.reference(f"test/{image.ref}:1")


@dataclass(frozen=True)
class Node:
    """One engine of one version over our daemon, and the commands."""

    world: World
    containerd: Containerd
    daemon: Snapshotter
    cri: Cri

    @property
    def base(self) -> str:
        return self.world.reference(self.world.base)

    def run(self, command: click.Command, *arguments: str) -> tuple[int, Any]:
        """Exit status and JSON of a command."""
        given = [*self.daemon.arguments(), "--containerd", str(self.containerd.socket), "--json", *arguments]
        done = CliRunner().invoke(command, given, catch_exceptions=False)
        return done.exit_code, json.loads(done.stdout)

    def text(self, command: click.Command, *arguments: str) -> str:
        given = [*self.daemon.arguments(), "--containerd", str(self.containerd.socket), *arguments]
        return CliRunner().invoke(command, given, catch_exceptions=False).output

    def differences(self, *arguments: str) -> list[dict[str, Any]]:
        status, found = self.run(fsck, "--older-than", "0", *arguments)
        assert found["problem"] == ""
        assert status == (3 if found["differences"] else 0)
        return list(found["differences"])

    def collect(self) -> None:
        """One garbage collection of containerd: by itself it may let a removed container's snapshot lie for long."""
        self.containerd.ctr("-n", "k8s.io", "leases", "create", "--id", "collect")
        self.containerd.ctr("-n", "k8s.io", "leases", "delete", "--sync", "collect")

    def directory_of(self, name: str) -> Path:
        """Of a record."""
        return self.daemon.root / "snapshots" / str(self.numbers()[name])

    def numbers(self) -> Mapping[str, int]:
        with AdminClient(admin_address(self.config)) as admin:
            return {record.name: record.id for record in admin.walk()}

    @property
    def config(self) -> Config:
        return Config(root=str(self.daemon.root), address=str(self.daemon.address))

    def infos(self) -> list[Info]:
        with self.daemon.client() as client:
            return list(client.walk())

    def remote_chain(self) -> list[Info]:
        """Our records of the base image's layers, base first."""
        targets = [str(chain_id(diff_ids)) for diff_ids in prefixes(self.world.base)]
        by_target = {info.labels.get("containerd.io/snapshot.ref"): info for info in self.infos()
                     if info.name.startswith("remote/")}  # fmt: skip
        return [by_target[target] for target in targets]


def prefixes(image: Image) -> list[list[Digest]]:
    diff_ids = [Digest.parse(text) for text in image.diff_ids]
    return [diff_ids[: end + 1] for end in range(len(diff_ids))]


@contextmanager
def made_world(directory: Path) -> Iterator[World]:
    layout, repository = directory / "layout", directory / "repository"
    base = write_busybox(layout, "base", [_ONE, _TWO])
    user = write_busybox(layout, "user", [_ONE, _TWO, _OWN])
    with Registry(directory / "registry") as registry:
        for image in (base, user):
            registry.push(layout, image.ref, f"test/{image.ref}:1")
        publish(base, repository, registry.reference("test/base:1"))
        with standin(repository, directory / "cvmfs", kcache=60):
            yield World(registry, push_pause(registry), directory / "cvmfs", base, user)


@contextmanager
def made_node(version: str, world: World, directory: Path) -> Iterator[Node]:
    """It has pulled the base image."""
    with (
        Snapshotter(directory / "state", world.mountpoint) as daemon,
        Containerd(version, world.sandbox, daemon.proxy) as containerd,
        Cri(containerd.socket) as cri,
    ):
        node = Node(world, containerd, daemon, cri)
        cri.pull(node.base)
        yield node
