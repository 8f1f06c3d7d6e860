"""The daemon as a pod without privileges: a real containerd runs it with the security context of docs/security.md.

The pod's image is the small busybox, for there is no image of ours to pull. Python, its packages and the project come
from the host instead, each at its own place and read-only: what is tried here is what the daemon may do in a pod, and
an image of a whole Python would only make that slower.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError
from snapshotter.client import Client
from tests.engines import debs
from tests.engines.busybox import push_pause, write_busybox
from tests.engines.containerd import PROXY, VERSIONS, Containerd, Proxy
from tests.engines.cri import RUNTIME_HANDLER, Container, Cri, Manifest, SecurityContext, Volume
from tests.engines.registry import Registry
from tests.fidelity.publishing import publish
from tests.images.ocilayout import Image
from tests.images.tarlayer import Dir, File, Whiteout
from tests.kubernetes import shipped
from tests.mounting import PROJECT, mounted, standin
from tests.privilege.asking import reason
from tests.privilege.confined import privileges
from tests.privilege.jobs import NEEDS, Scene, failures
from tests.snapshotter.layers import NAME, HandMade

pytestmark = [pytest.mark.engine, pytest.mark.root]

CONTEXT = shipped.security_context("snapshotter")
"""Of the manifest that is shipped."""

BITS = 0b11011
"""The same four, as the kernel counts them."""

HANDLER = "ordinary"
"""Of the runtime class whose containers are in overlayfs: the daemon's own cannot wait for the daemon."""

GRACE, READY_SECONDS = 20, 60.0
NOWHERE = Digest.of(b"a layer that is in no repository")
_SHOW = "cat /data/one /data/two; stat -c '%a %g' /data/shared; ls /data/shared"
_SHOWN = "one\ntwo\n2750 2000\n"
_MANUAL = PROJECT / "docs" / "security.md"


class WithBoth(Containerd):
    """All is in the proxy snapshotter but what is for one runtime class, which the manual describes (1.7 and newer)."""

    def configuration(self) -> str:
        text = super().configuration()
        old, new = re.findall(r"^```toml\n(.*?)^```", _MANUAL.read_text(), re.MULTILINE | re.DOTALL)
        wanted = new if self.version.startswith("2.") else old
        for platform in re.findall(r"platform = .*", text):
            wanted = re.sub(r"platform = .*", platform, wanted)
        (runtime,) = re.findall(rf"^\[(.*\.runtimes\.{HANDLER})]", wanted, re.MULTILINE)
        options = {"BinaryName": str(debs.RUNC.tool("runc").path), "Root": str(self.directory / "runc")}
        lines = [f"[{runtime}.options]", *(f"{key} = {json.dumps(value)}" for key, value in options.items())]
        return "\n".join([text, wanted, *lines, ""])


@dataclass(frozen=True)
class World:
    """A registry with the images, and the tree of a repository that has one of them."""

    registry: Registry
    sandbox: str
    program: str
    """Reference of the daemon's own image."""
    image: Image
    reference: str
    """Of the image that is in the repository."""
    tree: Path


@dataclass(frozen=True)
class Place:
    """What a daemon's pod shares with the host."""

    own: Path
    state: Path

    @property
    def address(self) -> Path:
        return self.own / "run" / "s.sock"

    @property
    def proxy(self) -> Proxy:
        return Proxy(self.address, self.state)

    def manifest(self, repository: Volume, context: SecurityContext = CONTEXT, handler: str = "") -> Manifest:
        volumes = (
            Volume(self.state, read_only=False),
            Volume(self.address.parent, read_only=False),
            Volume(self.own / "etc"),
            repository,
            *map(Volume, _program_places()),
        )
        return Manifest(volumes, {"PYTHONPATH": str(PROJECT)}, context, handler)

    @contextmanager
    def serving(self, cri: Cri, image: str, manifest: Manifest, **config: object) -> Iterator[Container]:
        """The daemon in a container of `image`, once it serves; `config` as in its file, with underscores."""
        settings = self.own / "etc" / "config.toml"
        settings.write_text("".join(f"{key.replace('_', '-')} = {json.dumps(it)}\n" for key, it in config.items()))
        options = {"--config": settings, "--root": self.state, "--address": self.address}
        arguments = [f"{option}={path}" for option, path in options.items()]
        command = [sys.executable, "-m", "snapshotter.cli.main", "serve", *arguments]
        with cri.running(image, command, manifest=manifest) as container:

            def serves() -> bool:
                assert cri.exit_code(container) is None, cri.output(container)
                return '"msg": "serving"' in cri.output(container)

            wait_until(serves, lambda: cri.output(container))
            yield container


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("world")
    layers = [
        [Dir("data"), Dir("data/shared", mode=0o2750, gid=2000), File("data/one", b"one\n"), File("data/shared/gone")],
        [File("data/two", b"two\n"), Whiteout("data/shared/gone")],
    ]
    image = write_busybox(directory / "layout", "image", layers)
    program = write_busybox(directory / "layout", "program", [[File("daemon", b"would be here")]])
    with Registry(directory / "registry") as registry:
        references = [registry.push(it.path, it.ref, f"test/{it.ref}:1") for it in (program, image)]
        publish(image, directory / "tree", references[1])
        yield World(registry, push_pause(registry), references[0], image, references[1], directory / "tree")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Short, for a socket's path must fit 107 bytes."""
    own = Path(tempfile.mkdtemp(prefix="cv-", dir="/tmp"))
    try:
        found = Place(own, tmp_path / "state")
        for directory in (found.state, found.address.parent, own / "etc"):
            directory.mkdir(0o755)  # as kubelet makes what is missing
        yield found
    finally:
        shutil.rmtree(own)


@dataclass(frozen=True)
class Engines:
    """The containerd that runs the daemon's pod, and the one that is served by it: the same one, if it can be."""

    pods: Cri
    containerd: Containerd
    cri: Cri
    handler: str

    def start_without_download(self, world: World) -> Container:
        """A container of the image that the repository has."""
        self.wait_until_connected()
        mark = world.registry.mark()
        self.cri.pull(world.reference)
        assert set(world.registry.blob_requests(mark)).isdisjoint(world.image.layers)
        return self.cri.start(world.reference, ["/bin/sleep", "1000"])

    def wait_until_connected(self) -> None:
        """containerd may wait up to three seconds before it dials again a socket that nothing served."""

        def answers() -> bool:
            try:
                client.prepare("probe", "", {})  # a List of nothing is answered by containerd itself
            except ContractError:
                return False
            client.remove("probe")
            return True

        with Client(self.containerd.socket, PROXY, "k8s.io") as client:
            wait_until(answers, lambda: "containerd does not reach the daemon")


@pytest.fixture(params=VERSIONS)
def engines(request: pytest.FixtureRequest, world: World, place: Place) -> Iterator[Engines]:
    """Nothing serves the socket yet. 1.6 has one snapshotter for all pods, so the daemon's is of another containerd."""
    with ExitStack() as stack:
        alone = request.param == "1.6"
        containerd = (Containerd if alone else WithBoth)(request.param, world.sandbox, place.proxy)
        cri = stack.enter_context(Cri(stack.enter_context(containerd).socket))
        pods = cri
        if alone:
            pods = stack.enter_context(Cri(stack.enter_context(Containerd("1.6", world.sandbox)).socket))
        yield Engines(pods, containerd, cri, "" if alone else HANDLER)


@pytest.fixture(scope="module")
def hosting(world: World) -> Iterator[Cri]:
    """A containerd that runs pods and is served by none."""
    with Containerd("2.1", world.sandbox) as containerd, Cri(containerd.socket) as cri:
        cri.pull(world.program)
        yield cri


@pytest.mark.fuse
def test_the_daemon_serves_from_a_pod_without_privileges(
    world: World, place: Place, engines: Engines, tmp_path: Path
) -> None:
    """containerd starts, then the pod, then the repository is mounted; an image runs from it, nothing is downloaded;
    and a container does not notice that the pod ends and another takes its place."""
    cvmfs = tmp_path / "cvmfs"
    wanted: dict[str, str | float] = {"repository": NAME, "absolute_mountpoint": str(cvmfs / NAME)}
    wanted |= {"probe_interval": 0.1, "deadline": 30.0}
    manifest = place.manifest(Volume(cvmfs, follows=True), handler=engines.handler)
    engines.pods.pull(world.program, manifest)
    with shared(cvmfs), place.serving(engines.pods, world.program, manifest, **wanted) as pod:
        assert_confined(engines.pods.pid(pod), place)
        assert_closed(place)
        with Client(place.address) as client, standin(world.tree, cvmfs / NAME, kcache=60):
            wait_until(lambda: reason(client, NOWHERE).startswith("absent"), lambda: reason(client, NOWHERE))
            container = engines.start_without_download(world)
            assert hits(engines.pods.output(pod)) == set(world.image.layers)
            assert engines.cri.exec(container, ["/bin/sh", "-c", _SHOW]).output == _SHOWN
            assert engines.pods.end(pod, GRACE) == 0
            assert engines.cri.exec(container, ["/bin/sh", "-c", f"touch /data/new; {_SHOW}"]).output == _SHOWN
            with place.serving(engines.pods, world.program, manifest, **wanted):
                engines.cri.stop(container)
                engines.cri.remove_image(world.reference)
                again = engines.start_without_download(world)
                assert engines.cri.exec(again, ["/bin/sh", "-c", _SHOW]).output == _SHOWN
                engines.cri.stop(again)


def test_a_restart_of_containerd_while_the_pod_is_down(world: World, place: Place, engines: Engines) -> None:
    """containerd forgets the images of a snapshotter that does not answer at its start. The pod's own is in overlayfs:
    the pod starts, the forgotten image is pulled again without a download, and the container before it ran on."""
    manifest = place.manifest(Volume(world.tree), handler=engines.handler)
    wanted = {"repository": NAME, "absolute_mountpoint": str(world.tree)}
    engines.pods.pull(world.program, manifest)
    with place.serving(engines.pods, world.program, manifest, **wanted):
        container = engines.start_without_download(world)
    engines.containerd.restart()
    assert engines.cri.find_image(world.reference) is None
    with place.serving(engines.pods, world.program, manifest, **wanted):
        assert engines.cri.exec(container, ["/bin/sh", "-c", _SHOW]).output == _SHOWN
        again = engines.start_without_download(world)
        for each in (container, again):
            engines.cri.stop(each)


@pytest.mark.parametrize("missing", [None, *sorted(NEEDS)])
def test_each_capability_of_the_pod_is_needed(
    world: World, hosting: Cri, place: Place, tmp_path: Path, missing: str | None
) -> None:
    """With all of them every job is done; without one, just those fail that docs/security.md names for it. FSETID is
    the one whose lack no error tells: a setgid directory is none."""
    repository = HandMade(tmp_path / "repository")
    context = replace(CONTEXT, add=[name for name in CONTEXT.add if name.lower() != missing])
    manifest = place.manifest(Volume(repository.root), context)
    wanted = {"repository": NAME, "absolute_mountpoint": str(repository.root)}
    with place.serving(hosting, world.program, manifest, **wanted), Client(place.address) as client:
        found = failures(Scene(client, repository, place.state))
        assert set(found) == NEEDS.get(missing or "", frozenset()), found


def test_the_manual_names_this_security_context() -> None:
    """The lines of docs/security.md are what the tests here give the pod."""
    text = _MANUAL.read_text()
    for line in (
        f"runAsUser: {CONTEXT.run_as_user}",
        f"allowPrivilegeEscalation: {str(CONTEXT.allow_privilege_escalation).lower()}",
        f"readOnlyRootFilesystem: {str(CONTEXT.read_only_root_filesystem).lower()}",
        f"capabilities: {{drop: [{', '.join(CONTEXT.drop)}], add: [{', '.join(CONTEXT.add)}]}}",
        "seccompProfile: {type: RuntimeDefault}",
        "readOnly: true, mountPropagation: HostToContainer",
        f"annotations: {{{RUNTIME_HANDLER}: {HANDLER}}}",
    ):
        assert line in text, line


def hits(log: str) -> set[str]:
    """Layers that the daemon served from the repository."""
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return {line["layer"] for line in lines if line.get("outcome") == "hit"}


def assert_confined(pid: int, place: Place) -> None:
    """root with these capabilities and no way to others, a system call filter, and two places to write to."""
    found = privileges(pid)
    sets = [int(found[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")]
    assert sets == [BITS, BITS, BITS, 0, 0]
    assert (found["NoNewPrivs"], found["Seccomp"], found["Uid"].split()) == ("1", "2", ["0"] * 4)
    table = [line.split(" ") for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    kinds = {fields[4]: fields[fields.index("-") + 1] for fields in table}
    writable = {fields[4] for fields in table if "rw" in fields[5].split(",")}
    assert {path for path in writable if kinds[path] not in _OF_THE_KERNEL} == {
        str(place.state),
        str(place.address.parent),
    }


def assert_closed(place: Place) -> None:
    """To everybody but root, although the directories that kubelet made are open."""
    private = [place.state / name for name in ("snapshots", "shims", "layers")]
    assert [path.stat().st_mode & 0o077 for path in (*private, place.address)] == [0] * 4


_OF_THE_KERNEL = {"proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "tmpfs"}


@contextmanager
def shared(directory: Path) -> Iterator[Path]:
    """A mount point whose later mounts are seen elsewhere, as /cvmfs is under systemd and autofs."""
    with mounted("none", str(directory), directory, ["bind"]):
        subprocess.run(["mount", "--make-shared", str(directory)], check=True, capture_output=True)
        yield directory


def wait_until(ready: Callable[[], bool], said: Callable[[], str]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not ready():
        assert time.monotonic() < deadline, said()
        time.sleep(0.05)


def _program_places() -> list[Path]:
    """What a Python with our packages consists of on this host; nothing that is within another of them."""
    places = [Path(path) for path in (PROJECT, sys.prefix, sys.base_prefix, "/usr", "/lib", "/lib64")]
    places.append(Path("/etc/ld.so.cache"))
    found = {path for path in places if path.exists()}
    return sorted(path for path in found if found.isdisjoint(path.parents))
