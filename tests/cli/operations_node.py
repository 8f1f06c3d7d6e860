"""The nodes on which docs/operations.md is typed: a real containerd 2.1, our daemon, a registry and a repository.

Paths and addresses of the page are those of a node that is installed as the page says. Here they are in temporary
directories: what is typed is translated, and what is answered is translated back. Options that a real node need not be
given, because its files are where they belong, are given by the programs in `bin`.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cvmfsrepo.digest import Digest
from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Reference
from tests.cli.operations import PROJECT
from tests.engines import debs
from tests.engines.busybox import push_pause, write_busybox
from tests.engines.containerd import Containerd
from tests.engines.cri import Container, Cri
from tests.engines.node import Snapshotter
from tests.engines.registry import Registry
from tests.fidelity.publishing import Form, publish
from tests.images.debian import debian_image
from tests.images.ocilayout import Image, read_image
from tests.images.tarlayer import Dir, Entry, File, Whiteout
from tests.snapshotter.daemon import DaemonError
from tests.snapshotter.nodes import eventually
from tests.standins import Standin, standin

VERSION = "2.1"
REGISTRY, REPOSITORY = "registry.example.org", "unpacked.example.org"
SECONDS = 30.0
"""For which a command may take."""

DEBIAN, ANALYSIS, TOOLS, LEGACY, JOB = "atlas/debian:12", "me/analysis:7", "atlas/tools:3", "atlas/legacy:1", "me/job:7"

_SYSTEMCTL = re.compile(r"systemctl (start|stop|restart) (cvmfs-snapshotter|containerd)")
_PROGRAM = """
import json, sys
from snapshotter.cli import output
names, given, words = json.load(open({names!r})), json.load(open({given!r})), sys.argv[1:]
plain = output.printable
def shown(text):
    for real, name in names:
        text = text.replace(real, name)
    return plain(text)
output.printable = shown  # columns are as wide as the names of the page
command = words[0] if words else ""
sys.argv[1:] = [*words, *given.get(command, given["*"] if not command.startswith("-") else [])]
from snapshotter.cli.main import main
main()
"""


class Engine(Containerd):
    """A containerd whose file says nothing of snapshotters, and includes `conf.d`."""

    def configuration(self) -> str:
        """The usual one, without what `cvmfs-snapshotter config containerd` prints."""
        text = super().configuration().replace("version = 3\n", f'version = 3\nimports = ["{self.included}/*.toml"]\n')
        text = text.replace(f'  snapshotter = "{self.snapshotter_name}"\n', "", 1)
        return re.sub(r"  \[\[plugins.*unpack_config\]\]\n.*\n.*\n", "", text)

    @property
    def included(self) -> Path:
        return self.directory / "conf.d"


@dataclass(frozen=True)
class World:
    """What all nodes share: images, a registry that has them all, and a repository that has most."""

    directory: Path
    registry: Registry
    sandbox: str
    mount: Standin
    later: Sequence[str]
    """Paths that are not yet published when a node starts."""

    @contextmanager
    def node(self) -> Iterator["Node"]:
        """A node of one chapter."""
        with ExitStack() as held:
            directory = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="node-", dir=self.directory)))
            self.mount.clear()
            self.mount.publish(41, hide=self.later)
            state, quick = directory / "state", {"deadline": 2, "probe_interval": 1, "index_interval": 0.5}
            daemon = Snapshotter(state, self.mount.mountpoint, repository=REPOSITORY, **quick)
            held.callback(daemon.close)
            engine = Engine(VERSION, self.sandbox)
            held.callback(engine.stop)
            held.callback(self.mount.clear)
            yield Node(self, directory, daemon, engine)


@dataclass
class Node:
    """One node, and what is typed on it."""

    world: World
    directory: Path
    daemon: Snapshotter
    engine: Engine
    pods: list[Container] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.engine.included.mkdir()
        (self.directory / "backups").mkdir()
        config = str(self.engine.directory / "config.toml")
        ours = list(self.daemon.arguments())
        given = {
            "*": ours, "completion": [], "doctor": [*ours, "--containerd-config", config],
            "image": [*ours, "--engine-config", config], "drain": [*ours, "--containerd-config", config],
        }  # fmt: skip
        (self.directory / "given.json").write_text(json.dumps(given))
        (self.directory / "names.json").write_text(json.dumps(self.names))
        program = self.directory / "program.py"
        program.write_text(_PROGRAM.format(names=f"{self.directory}/names.json", given=f"{self.directory}/given.json"))
        self._script("cvmfs-snapshotter", f'exec {sys.executable} {program} "$@"')
        self._script("crictl", f'exec {sys.executable} -m tests.cli.operations_crictl "$@"')
        self._script("ctr", f'exec {self._tool("ctr")} --address {self.engine.socket} "$@"')
        self._script("containerd", f'exec {self._tool("containerd")} "$@"')
        self._script("journalctl", f'test "$*" = "-u cvmfs-snapshotter -o cat" && exec cat {self.daemon.log}')

    @property
    def names(self) -> list[tuple[str, str]]:
        """What is called otherwise here than on the page, the longest first."""
        run = "/run/containerd-cvmfs-grpc"
        found = {
            self.world.registry.address: REGISTRY,
            str(self.world.mount.mountpoint): f"/cvmfs/{REPOSITORY}",
            str(self.daemon.root): "/var/lib/containerd-cvmfs-grpc",
            str(self.daemon.address): f"{run}/containerd-cvmfs-grpc.sock",
            str(self.daemon.address.parent): run,
            self.daemon.arguments()[1]: "/etc/containerd-cvmfs-grpc/config.toml",
            str(self.engine.socket): "/run/containerd/containerd.sock",
            str(self.engine.root): "/var/lib/containerd",
            str(self.engine.directory): "/etc/containerd",
            str(self.directory / "backups"): "/var/backups",
        }
        return sorted(found.items(), key=lambda pair: len(pair[0]), reverse=True)

    def type(self, command: str) -> tuple[int, str]:
        """Status and answer of one line."""
        if service := _SYSTEMCTL.fullmatch(command):
            self._service(service[1], service[2])
            return 0, ""
        for real, name in sorted(self.names, key=lambda pair: len(pair[1]), reverse=True):
            command = command.replace(name, real)
        try:
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, timeout=SECONDS, env=self._environment(), check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            self.world.mount.clear()
            return 124, f"no end within {SECONDS:g} s\n"
        said = done.stdout
        for real, name in self.names:
            said = said.replace(real, name)
        return done.returncode, said

    def happen(self, words: str) -> None:
        """One event of the page."""
        verb, *about = words.split(maxsplit=1)
        {
            "install": self._install, "unlabel": self._unlabel, "index": self._index, "pod": self._pod,
            "publish": self._publish, "hang": self._hang, "answer": self._answer, "damage": self._damage,
        }[verb](*about)  # type: ignore[operator]  # fmt: skip

    def _install(self) -> None:
        """Everything is as the first chapter leaves it."""
        self.daemon.start()
        self._index()
        text = self.type("cvmfs-snapshotter config containerd 2>/dev/null")[1]
        for real, name in sorted(self.names, key=lambda pair: len(pair[1]), reverse=True):
            text = text.replace(name, real)
        (self.engine.included / "cvmfs-snapshotter.toml").write_text(text)
        self.engine.start()

    def _index(self, revision: str = "41") -> None:
        """The daemon has read this revision of the repository."""
        eventually(lambda: f"of revision {revision}" in self.type("cvmfs-snapshotter status")[1], 30)

    def _unlabel(self) -> None:
        """Somebody installed a configuration that does not switch labels on."""
        file = self.engine.included / "cvmfs-snapshotter.toml"
        file.write_text(re.sub(r".*enable_remote_snapshot_annotations.*\n", "", file.read_text()))
        self._service("restart", "containerd")

    def _pod(self, image: str) -> None:
        """A pod of it runs."""
        with Cri(self.engine.socket) as cri:
            cri.pull(self.world.registry.reference(image))
            made = cri.start(self.world.registry.reference(image), ["/bin/sleep", "1000"])
        self.pods.append(made)
        for one, labels in ((made.pod, []), (made.id, ["io.kubernetes.container.name=main"])):  # as kubelet does
            self.engine.ctr("-n", "k8s.io", "containers", "label", one, "io.kubernetes.pod.name=fit-7", *labels)

    def _publish(self) -> None:
        """Somebody publishes what is not yet there; the node sees it when a catalog's time is over."""
        self.world.mount.publish(42, show=self.world.later, after=1.0)

    def _hang(self) -> None:
        """The repository does not answer any more, and the daemon has noticed."""
        self.world.mount.fault("stall")
        eventually(lambda: '"healthy"' not in self.type("cvmfs-snapshotter status --json")[1], 30)

    def _answer(self) -> None:
        self.world.mount.clear()
        eventually(lambda: '"healthy"' in self.type("cvmfs-snapshotter status --json")[1], 30)

    def _damage(self, what: str) -> None:
        """The database loses a page; a link of a snapshot leads elsewhere."""
        if what == "database":
            with (self.daemon.root / "metadata.sqlite").open("r+b") as file:
                file.write(b"\xff" * 4096)
        else:
            link = min((self.daemon.root / "snapshots").glob("*/h"))
            link.unlink()

    def _service(self, verb: str, unit: str) -> None:
        """As systemd does it for `Type=simple`: a service that fails is in its log."""
        if unit == "containerd":
            self.engine._end_daemon(signal.SIGTERM)
            if verb != "stop":
                self.engine.start()
            return
        if verb != "start":
            self.daemon.end()
        if verb != "stop":
            try:
                self.daemon.start()
            except DaemonError:
                return

    def _script(self, name: str, text: str) -> None:
        path = self.directory / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def _tool(self, name: str) -> Path:
        return debs.CONTAINERD[VERSION].tool(name).path

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ, "PATH": f"{self.directory}/bin:{os.environ['PATH']}", "PYTHONPATH": str(PROJECT),
            "CONTAINERD_ADDRESS": str(self.engine.socket), "CONTAINER_RUNTIME_ENDPOINT": str(self.engine.socket),
            "LC_ALL": "C.UTF-8",
        }  # fmt: skip


@contextmanager
def world() -> Iterator[World]:
    """Registry, repository and mount below one temporary directory."""
    with ExitStack() as held:
        directory = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="ops-")))
        images = _images(directory / "layouts")
        registry = held.enter_context(Registry(directory / "registry"))
        for name, image in images.items():
            registry.push(image.path, image.ref, name)
        repository = directory / "repository"
        forms = {DEBIAN: Form.OVERLAY, TOOLS: Form.OVERLAY, LEGACY: Form.DUCC, JOB: Form.OVERLAY}
        for name, form in forms.items():
            publish(images[name], repository, registry.reference(name), form)
        mount = held.enter_context(standin(repository, directory / "cvmfs", fqrn=REPOSITORY, revision=41, kcache=60))
        described = Layout(Path("/")).manifest_json(Reference.parse(registry.reference(JOB))).parent
        own = Layout(Path("/")).layer(Digest.parse(images[JOB].layers[-1]))
        yield World(directory, registry, push_pause(registry), mount, [str(described), str(own)])


def _images(directory: Path) -> dict[str, Image]:
    """A Debian, and an image that a user built on it; small ones besides."""
    base = debian_image()
    own, umoci = directory / "debian", debs.UMOCI.tool("umoci", TMPDIR=str(directory.parent))
    shutil.copytree(base.path, own, copy_function=os.symlink)
    (own / "index.json").unlink()
    shutil.copy(base.path / "index.json", own)
    for tag, size in ((base.ref, 24_000_000), ("analysis", 90_000)):
        file = directory / "file"
        file.write_bytes(random.Random(size).randbytes(size))
        umoci.run("insert", "--image", f"{own}:{base.ref}", "--tag", tag, file, f"/opt/analysis/{size}")
    small = directory / "small"
    tools: list[list[Entry]] = [[Dir("opt"), File("opt/tool", b"3\n"), File("opt/old", b"2\n")], [Whiteout("opt/old")]]
    legacy: list[list[Entry]] = [
        [Dir("srv"), File("srv/a", b"a\n", uid=1000, gid=1000)],
        [Whiteout("srv/a"), File("srv/b", b"b\n")],
    ]
    job: list[list[Entry]] = [[Dir("job"), File("job/run", b"#!/bin/sh\necho done\n", mode=0o755)]]
    return {
        DEBIAN: base, ANALYSIS: read_image(own, "analysis"), TOOLS: write_busybox(small, "tools", tools),
        LEGACY: write_busybox(small, "legacy", legacy), JOB: write_busybox(small, "job", job),
    }  # fmt: skip
