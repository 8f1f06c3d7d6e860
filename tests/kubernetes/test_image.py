"""The container image, built here, and the pod of the manifests run from it by a real containerd: the same arguments,
security contexts and mounts, at places of the test's own."""

import json
import os
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from snapshotter.nodelabels.labels import PREFIX
from tests.engines import debs
from tests.engines.busybox import push_pause, write_busybox
from tests.engines.containerd import PROXY, Containerd, Proxy
from tests.engines.cri import Container, Cri, Manifest, Volume
from tests.engines.registry import Registry
from tests.engines.test_pod import HANDLER, WithBoth, hits, shared, wait_until
from tests.fidelity.publishing import publish
from tests.images.ocilayout import Image
from tests.images.tarlayer import File
from tests.kubernetes import shipped
from tests.kubernetes.imagebuild import Built, build
from tests.kubernetes.manual import typed
from tests.kubernetes.stubapi import NODE, stub_api

pytestmark = [pytest.mark.engine, pytest.mark.root, pytest.mark.slow]

REPOSITORY = "unpacked.cern.ch"
ETC = "/etc/containerd-cvmfs-grpc"


@dataclass(frozen=True)
class World:
    """A registry with the daemon's image and another, which the repository below `cvmfs` has too."""

    built: Built
    registry: Registry
    sandbox: str
    program: str
    image: Image
    reference: str
    cvmfs: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("world")
    built = build(tmp_path_factory.mktemp("build"))
    image = write_busybox(directory / "layout", "image", [[File("data", b"of the repository\n")]])
    with Registry(directory / "registry") as registry:
        program = registry.push(built.image.path, built.image.ref, "test/program:1")
        reference = registry.push(image.path, image.ref, "test/image:1")
        publish(image, directory / "cvmfs" / REPOSITORY, reference)
        yield World(built, registry, push_pause(registry), program, image, reference, directory / "cvmfs")


@dataclass(frozen=True)
class Node:
    """The manifest's directories of the node, elsewhere: `places` has them by their names in the pod."""

    own: Path
    places: dict[str, Path]

    @classmethod
    def below(cls, own: Path, cvmfs: Path) -> "Node":
        found = {"state": own / "state", "run": own / "run", "cvmfs": cvmfs}
        assert shipped.host_paths().keys() == found.keys()
        for directory in (found["state"], found["run"], own / "etc"):
            directory.mkdir(0o755)
        node = cls(own, found)
        (own / "etc" / "config.toml").write_text(node.settings())
        return node

    @property
    def proxy(self) -> Proxy:
        return Proxy(self.places["run"] / "containerd-cvmfs-grpc.sock", self.places["state"])

    def settings(self, address: str = "127.0.0.1:0") -> str:
        """The shipped ones, at these places and on a free port."""
        text = str(shipped.get("ConfigMap")["data"]["config.toml"]).replace("0.0.0.0:9400", address)
        for name, path in shipped.host_paths().items():
            text = text.replace(f'"{path}', f'"{self.places[name]}')
        return f'absolute-mountpoint = "{self.places["cvmfs"] / REPOSITORY}"\n{text}'

    def manifest(self, name: str) -> Manifest:
        """One container of the pod."""
        container = shipped.container(name)
        volumes = [self._volume(each) for each in container["volumeMounts"] if each["name"] in self.places]
        return Manifest(volumes, {}, shipped.security_context(name), HANDLER, arguments=container["args"])

    def _volume(self, mount: dict[str, Any]) -> Volume:
        follows = mount.get("mountPropagation", "None")
        assert follows in ("None", "HostToContainer")
        return Volume(self.places[mount["name"]], mount.get("readOnly", False), follows == "HostToContainer")

    @contextmanager
    def daemon(self, cri: Cri, program: str) -> Iterator[tuple[Container, str]]:
        """And the address of its pages."""
        mounts = {self.own / "etc": ETC}
        with cri.running(program, (), mounts, self.manifest("snapshotter")) as container:

            def serves() -> bool:
                assert cri.exit_code(container) is None, cri.output(container)
                return bool(serving(cri.output(container)))

            wait_until(serves, lambda: cri.output(container))
            yield container, str(serving(cri.output(container))[0]["metrics"])


@pytest.fixture
def node(world: World) -> Iterator[Node]:
    """With short paths, for a socket's."""
    own = Path(tempfile.mkdtemp(prefix="cv-", dir="/tmp"))
    try:
        yield Node.below(own, world.cvmfs)
    finally:
        shutil.rmtree(own)


@pytest.fixture
def containerd(world: World, node: Node) -> Iterator[Containerd]:
    """All images are in the snapshotter but those of the manifest's runtime class."""
    assert shipped.pod()["spec"]["runtimeClassName"] == HANDLER
    with shared(world.cvmfs), WithBoth("2.1", world.sandbox, node.proxy) as containerd:
        yield containerd


@pytest.fixture
def cri(world: World, node: Node, containerd: Containerd) -> Iterator[Cri]:
    with Cri(containerd.socket) as cri:
        cri.pull(world.program, node.manifest("snapshotter"))
        yield cri


def test_the_image_says_what_it_is(world: World) -> None:
    """Its command is the daemon, and labels tell its version and where it comes from."""
    config = json.loads(world.built.image.blob(world.built.image.config).read_bytes())["config"]
    assert (config["Entrypoint"], config["Cmd"]) == (["cvmfs-snapshotter"], ["serve"])
    labels = {name.rpartition(".")[2]: text for name, text in config["Labels"].items() if "opencontainers" in name}
    assert labels.keys() == {"title", "description", "version", "revision", "licenses", "name"}
    assert (labels["title"], labels["licenses"]) == ("cvmfs-snapshotter", "Apache-2.0")
    assert f"cvmfs-snapshotter {labels['version']} on Debian 12" in world.built.said


def test_the_pod_serves(world: World, node: Node, cri: Cri) -> None:
    """The daemon becomes ready, an image comes from the repository and runs, and SIGTERM ends it well within the
    manifest's grace."""
    with node.daemon(cri, world.program) as (pod, address):
        wait_until(lambda: status(f"http://{address}/readyz") == 200, lambda: cri.output(pod))
        assert status(f"http://{address}/healthz") == 200
        mark = world.registry.mark()
        wait_until(lambda: pulls(cri, world.reference), lambda: cri.output(pod))
        assert set(world.registry.blob_requests(mark)).isdisjoint(world.image.layers)
        assert hits(cri.output(pod)) == set(world.image.layers)
        assert cri.run(world.reference, ["/bin/cat", "/data"]).output == "of the repository\n"
        said = json.loads(cri.exec(pod, ["cvmfs-snapshotter", "status", "--json"]).output)
        assert said["served"]["hits"] == {REPOSITORY: len(world.image.layers)}
        assert cri.end(pod, shipped.pod()["spec"]["terminationGracePeriodSeconds"]) == 0


def test_the_way_out(world: World, node: Node, containerd: Containerd, cri: Cri, tmp_path: Path) -> None:
    """What the manual types on a node that is left: the snapshotter is empty after it, and its pod still there, for its
    own image is in overlayfs."""
    program = debs.CONTAINERD[containerd.version].tool("ctr").path
    (tmp_path / "ctr").write_text(f'#!/bin/sh\nexec "{program}" --address "{containerd.socket}" "$@"\n')
    (tmp_path / "ctr").chmod(0o755)
    with node.daemon(cri, world.program) as (pod, _):
        wait_until(lambda: pulls(cri, world.reference), lambda: cri.output(pod))
        assert cri.run(world.reference, ["/bin/true"]).exit_code == 0
        remove, show = (line for line in typed("ctr ") if "-n k8s.io" in line)
        assert PROXY in show
        assert len(shell(show, tmp_path).splitlines()) > 1
        shell(remove, tmp_path)
        wait_until(lambda: len(shell(show, tmp_path).splitlines()) == 1, lambda: shell(show, tmp_path))
        assert cri.exec(pod, ["cvmfs-snapshotter", "status"]).exit_code == 0


def test_the_label_container(world: World, node: Node, cri: Cri, tmp_path: Path) -> None:
    """From the same image, as nobody, with the token alone: it labels the node, and takes the label back."""
    label = f"{PREFIX}{REPOSITORY}"
    manifest = node.manifest("node-labels")
    arguments = [*manifest.arguments, "--beat", "0.2"]
    with node.daemon(cri, world.program) as (_, address), stub_api(tmp_path / "account") as api:
        settings = tmp_path / "etc"
        settings.mkdir()
        (settings / "config.toml").write_text(node.settings(address))
        tmp_path.chmod(0o755)
        environment = {**api.environment, "NODE_NAME": NODE}
        mounts = {settings: ETC, api.account: "/var/run/secrets/kubernetes.io/serviceaccount"}
        wanted = replace(manifest, environment=environment, arguments=arguments)
        with cri.running(world.program, (), mounts, wanted) as container:
            wait_until(lambda: api.labels.get(label) == "healthy", lambda: cri.output(container))
            assert cri.end(container, 20) == 0
            assert label not in api.labels


def shell(line: str, programs: Path) -> str:
    """What it prints; `programs` come first."""
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    return subprocess.run(["sh", "-c", line], env=environment, check=True, capture_output=True, text=True).stdout


def serving(log: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["msg"] == "serving"]


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def pulls(cri: Cri, reference: str) -> bool:
    """containerd may wait up to three seconds before it dials again a socket that nothing served."""
    try:
        cri.pull(reference)
    except grpc.RpcError:
        return False
    return True
