"""A node that is a whole Debian: its own containerd, told what our command prints, and a repository below /cvmfs."""

import contextlib
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from snapshotter.config import Config
from tests.engines.busybox import PAUSE, write_busybox
from tests.engines.cri import Cri
from tests.engines.registry import Registry
from tests.fidelity.publishing import publish
from tests.images.tarlayer import Dir, Entry, File, Whiteout
from tests.mounting import standin
from tests.packages import built
from tests.packages.machine import Disk, Machine, booted, disk
from tests.packages.trees import Tree

REPOSITORY = "unpacked.example.org"
CONFIG = "/etc/containerd-cvmfs-grpc/config.toml"
STATE = Config().root
UNIT = "cvmfs-snapshotter.service"
CONTAINER = "job"
_LAYERS: list[list[Entry]] = [
    [Dir("data"), File("data/one", b"one\n"), File("data/gone", b"x")],
    [Whiteout("data/gone")],
]


@dataclass(frozen=True)
class World:
    """A registry and a repository that have an image, and the packages; `binds` is what a machine needs of them."""

    reference: str
    binds: dict[str, Path]


@contextlib.contextmanager
def world(directory: Path) -> Iterator[World]:
    """The repository is mounted as a CVMFS client mounts it."""
    image = write_busybox(directory / "layout", "image", _LAYERS)
    for version in (built.VERSION, built.NEXT):
        built.package(version)
    with Registry(directory / "registry") as registry:
        reference = registry.push(image.path, image.ref, "test/image:1")
        publish(image, directory / "repository", reference)
        with standin(directory / "repository", directory / "cvmfs", fqrn=REPOSITORY) as mount:
            binds = {f"/cvmfs/{REPOSITORY}": mount.mountpoint}
            binds |= {f"/packages/{v}": built.package(v).parent for v in (built.VERSION, built.NEXT)}
            yield World(reference, binds)


@dataclass(frozen=True)
class Node:
    """A booted machine, and what an administrator does on it."""

    world: World
    machine: Machine

    def install(self, version: str = built.VERSION) -> str:
        """Without a network: what dpkg says."""
        return self.machine.say(f"unshare --net dpkg --install /packages/{version}/*.deb")

    def configure(self) -> None:
        """As docs/install.md says it: the repository's name, and what containerd is told besides Debian's file."""
        self.machine.say(f"sed -i 's/^repository = .*/repository = \"{REPOSITORY}\"/' {CONFIG}")
        file, told = "/etc/containerd/config.toml", "cvmfs-snapshotter config containerd | grep -v '^version'"
        self.machine.say(f"grep -q cvmfs {file} || {told} >> {file}")
        self.machine.say("systemctl restart cvmfs-snapshotter containerd")

    def pull(self) -> None:
        """As kubelet does."""
        self.machine.insist("ctr plugins list | grep -q 'cri .*ok'")
        with Cri(self.machine.prefix / "run/containerd/containerd.sock") as cri:
            cri.pull(self.world.reference)

    def run(self, name: str) -> int | None:
        """A container that waits; the number of its process in the machine. containerd's client may wait up to three
        seconds before it dials a daemon again that had gone. There are no controllers here, and so no shares."""
        options = "-d --null-io --cpu-shares 0 --snapshotter cvmfs-snapshotter"
        self.machine.insist(f"ctr -n k8s.io run {options} {self.world.reference} {name} {shlex.join(PAUSE)}")
        return self.task(name)

    def task(self, name: str) -> int | None:
        """The number of a container's process, while it runs."""
        rows = [line.split() for line in self.machine.say("ctr -n k8s.io tasks list").splitlines()[1:]]
        return next((int(row[1]) for row in rows if row[0] == name and row[2] == "RUNNING"), None)

    def read(self, name: str) -> str:
        """What stands in the root file system of a container, deleted files and all."""
        inner = "cat /data/one; ls /data"
        return self.machine.say(f"ctr -n k8s.io tasks exec --exec-id look-{name} {name} sh -c '{inner}'")

    def snapshots(self) -> object:
        """All that the records say."""
        return json.loads(self.machine.say("cvmfs-snapshotter snapshots --json"))

    def version(self) -> str:
        """The running daemon's own."""
        return self.machine.say("cvmfs-snapshotter status | grep '^version'").split()[1]

    def pids(self) -> tuple[str, str]:
        """The numbers of our daemon and of containerd; "0" for one that does not run."""
        (ours,), (theirs,) = (self.machine.shown(unit, "MainPID") for unit in (UNIT, "containerd.service"))
        return ours, theirs

    def package_state(self) -> str:
        """As dpkg has it."""
        return self.machine.say("dpkg-query --show --showformat='${db:Status-Status}' cvmfs-snapshotter")

    def leave(self) -> None:
        """What `cvmfs-snapshotter drain` says: containers, images, what containerd forgot, and then nothing uses it."""
        self.machine.say("ctr -n k8s.io tasks list -q | xargs -r -n 1 ctr -n k8s.io tasks kill --signal KILL")
        self.machine.insist("ctr -n k8s.io containers list -q | xargs ctr -n k8s.io containers remove")
        self.machine.say("ctr -n k8s.io images list -q | xargs ctr -n k8s.io images remove --sync")
        self.machine.insist("cvmfs-snapshotter drain || { cvmfs-snapshotter fsck --repair --older-than 0; false; }")


@contextlib.contextmanager
def node(made: World, written: Disk) -> Iterator[Node]:
    """Boots it; a container that runs when it ends dies with it."""
    with booted(written, made.binds) as machine:
        yield Node(made, machine)


@contextlib.contextmanager
def installed(made: World, tree: Tree) -> Iterator[Disk]:
    """The disk of a machine on which the package is installed and configured, and the image pulled."""
    with disk(tree) as written:
        with node(made, written) as it:
            it.install()
            it.configure()
            it.pull()
        yield written
