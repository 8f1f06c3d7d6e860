"""What real containerd of three generations says of our snapshots, against our records and the disk; how a node is
mended; and how it is left."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from cvmfsrepo.digest import Digest, chain_id
from cvmfsrepo.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from snapshotter.cli.containers import resolve_container
from snapshotter.cli.drain import drain
from snapshotter.cli.fsck import fsck
from snapshotter.client import Client
from snapshotter.config import Config
from snapshotter.engine import look
from snapshotter.snapshots import Info, Kind
from tests.engines.busybox import push_pause, write_busybox
from tests.engines.containerd import PROXY, VERSIONS, Containerd
from tests.engines.cri import Cri
from tests.engines.node import Snapshotter
from tests.engines.registry import Registry
from tests.fidelity.publishing import publish
from tests.images.ocilayout import Image
from tests.images.tarlayer import Dir, File, Whiteout
from tests.mounting import mounted, standin

pytestmark = [pytest.mark.engine, pytest.mark.fuse, pytest.mark.root, pytest.mark.xdist_group("fsck")]

_ONE = [Dir("data"), File("data/one", b"one\n"), File("data/gone", b"x")]
_TWO = [File("data/two", b"two\n"), Whiteout("data/gone")]
_OWN = [File("data/own", b"of the user\n")]
_SHOW = ["/bin/sh", "-c", "cat /data/one /data/two; ls -A /data"]
_SHOWN = "one\ntwo\none\ntwo\n"


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

    def directory_of(self, name: str) -> Path:
        """Of a record, by how an active snapshot or a view on it would be mounted."""
        return self.daemon.root / "snapshots" / str(self.numbers()[name])

    def numbers(self) -> Mapping[str, int]:
        from snapshotter.admin.address import admin_address
        from snapshotter.admin.client import AdminClient

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


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("world")
    layout, repository = directory / "layout", directory / "repository"
    base = write_busybox(layout, "base", [_ONE, _TWO])
    user = write_busybox(layout, "user", [_ONE, _TWO, _OWN])
    with Registry(directory / "registry") as registry:
        for image in (base, user):
            registry.push(layout, image.ref, f"test/{image.ref}:1")
        publish(base, repository, registry.reference("test/base:1"))
        with standin(repository, directory / "cvmfs", kcache=60):
            yield World(registry, push_pause(registry), directory / "cvmfs", base, user)


@pytest.fixture(params=VERSIONS)
def node(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> Iterator[Node]:
    with (
        Snapshotter(tmp_path / "state", world.mountpoint) as daemon,
        Containerd(request.param, world.sandbox, daemon.proxy) as containerd,
        Cri(containerd.socket) as cri,
    ):
        node = Node(world, containerd, daemon, cri)
        cri.pull(node.base)
        yield node


def kinds(found: Sequence[Mapping[str, Any]]) -> list[str]:
    return [one["kind"] for one in found]


def share_with(node: Node, namespace: str) -> None:
    """Has the base image's layers in a second namespace, too."""
    with Client(node.containerd.socket, PROXY, namespace) as client:
        parent = ""
        for layer, diff_ids in zip(node.world.base.layers, prefixes(node.world.base), strict=True):
            target = str(chain_id(diff_ids))
            labels = {"containerd.io/snapshot.ref": target, "containerd.io/snapshot/cri.layer-digest": layer,
                      "containerd.io/gc.root": "test"}  # fmt: skip
            with pytest.raises(AlreadyExists):
                client.prepare(f"extract-{target}", parent, labels)
            parent = target


def test_a_whole_node_has_no_differences(node: Node) -> None:
    """With layers of a repository and downloaded ones, a running container and a second namespace; and when the
    container is gone."""
    node.cri.pull(node.world.reference(node.world.user))
    share_with(node, "other")
    with node.cri.running(node.world.reference(node.world.user), ["/bin/sleep", "1000"]):
        status, found = node.run(fsck)
        assert (status, found["differences"], found["problem"]) == (0, [], "")
        assert found["snapshots"] > found["records"] > 5  # layers are shared by namespaces
        assert found["version"].startswith(("v", node.containerd.version))
        assert found["snapshotters"] == [PROXY]
    assert node.differences("--repair") == []
    assert "nothing differs" in node.text(fsck)


def test_damage_to_links_and_shims_is_named_and_mended_under_a_running_container(node: Node) -> None:
    """A link that leads elsewhere, missing links, a missing directory, lost shims, a lost work directory: each is named
    with the images and containers that need it, made again from the record, and what runs notices nothing."""
    with node.cri.running(node.base, ["/bin/sleep", "1000"]) as container:
        bottom, one, two = (node.directory_of(info.name) for info in node.remote_chain())
        links = {path: os.readlink(path) for place in (bottom, one, two) for path in place.iterdir()}
        (bottom / "fs").unlink()
        (bottom / "fs").symlink_to("/etc")
        (one / "h").unlink()
        shutil.rmtree(two)
        upper = node.directory_of(resolve_container(node.config, container.id, node.containerd.socket))
        with node.daemon.client() as client:
            client.prepare("k8s.io/900001/planted", "", {})
        shutil.rmtree(node.daemon.root / "snapshots" / str(node.numbers()["k8s.io/900001/planted"]) / "work")
        for shim in (node.daemon.root / "shims").iterdir():
            shutil.rmtree(shim)
        found = node.differences()
        named = {one["subject"] for one in found if one["kind"] == "disk"}
        assert {f"{bottom}/fs", f"{one}/h", f"{two}"} <= named
        assert all(one["mendable"] for one in found), found
        of_two = next(one for one in found if one["subject"] == str(two))
        assert f"container k8s.io/{container.id}" in of_two["users"]
        assert f"image k8s.io/{node.base}" in of_two["users"]
        assert f"container k8s.io/{container.id}" in node.text(fsck)
        assert node.differences("--repair") == [], node.text(fsck)
        assert {path: os.readlink(path) for place in (bottom, one, two) for path in place.iterdir()} == links
        assert upper.is_dir()
        assert node.cri.exec(container, _SHOW).output == _SHOWN
        again = node.cri.run(node.base, _SHOW)
        assert (again.exit_code, again.output) == (0, _SHOWN)


def test_leftovers_and_orphans_are_removed_but_not_what_is_mounted(node: Node, tmp_path: Path) -> None:
    """Records that containerd does not know go, children first, with what only they stood on; one that is mounted, and
    what it stands on, stays and is named; one of another engine's namespace stays too. What containerd has is
    untouched."""
    before = {info.name for info in node.infos()}
    root = node.daemon.root / "snapshots"
    with node.daemon.client() as client:
        client.prepare("k8s.io/900001/a", "", {})
        client.commit("k8s.io/900002/A", "k8s.io/900001/a", {})
        client.prepare("k8s.io/900003/b", "k8s.io/900002/A", {})
        client.prepare("buildkit/1/theirs", "", {})
        client.prepare("k8s.io/900004/c", "", {})
        client.commit("k8s.io/900005/C", "k8s.io/900004/c", {})
        (mount,) = client.prepare("k8s.io/900006/used", "k8s.io/900005/C", {})
        client.prepare("gone", "", {})
        number = node.numbers()["gone"]
        client.remove("gone")
    orphan = root / str(number)
    (orphan / "fs").mkdir(parents=True)
    planted = {"k8s.io/900003/b", "k8s.io/900002/A", "k8s.io/900006/used", "k8s.io/900005/C"}
    found = node.differences()
    assert {one["subject"] for one in found if one["kind"] == "leftover"} == planted
    assert {one["subject"] for one in found if one["kind"] == "foreign"} == {"buildkit/1/theirs"}
    assert {one["subject"] for one in found if one["kind"] == "orphan"} == {str(orphan)}
    young = node.run(fsck, "--repair")[1]
    assert not any("removed" in one["what"] for one in young["mended"] if one["path"] in planted)
    assert {one["subject"] for one in young["differences"]} == planted | {"buildkit/1/theirs"}
    assert not orphan.exists()
    with mounted(mount.type, mount.source, tmp_path / "merged", mount.options):
        left = node.run(fsck, "--repair", "--older-than", "0")[1]
        assert {one["subject"] for one in left["differences"]} == {
            "k8s.io/900006/used", "k8s.io/900005/C", "buildkit/1/theirs",
        }  # fmt: skip
        whats = {one["path"]: (one["done"], one["what"]) for one in left["mended"]}
        assert whats["k8s.io/900003/b"][0]
        assert "is mounted" in whats["k8s.io/900006/used"][1]
        assert "is mounted" in whats["k8s.io/900005/C"][1]
    assert kinds(node.differences("--repair")) == ["foreign"]
    assert {info.name for info in node.infos()} == before | {"buildkit/1/theirs"}
    with node.daemon.client() as client:
        client.remove("buildkit/1/theirs")
    assert node.cri.run(node.base, _SHOW).output == _SHOWN


def test_what_containerd_needs_and_we_lost_is_named_with_who_needs_it(node: Node) -> None:
    """A record that is gone behind containerd's back, of an image and of a container. Neither can be mended here; what
    the remedy says does mend it."""
    user = node.world.reference(node.world.user)
    node.cri.pull(user)
    container = node.cri.start(node.base, ["/bin/sleep", "1000"])
    of_container = resolve_container(node.config, container.id, node.containerd.socket)
    top = next(info for info in node.infos() if info.name.endswith(f"/{chain_id(prefixes(node.world.user)[-1])}"))
    with node.daemon.client() as client:
        client.remove(top.name)
        client.remove(of_container)
    found = node.differences("--repair")
    assert kinds(found) == ["lost", "lost"]
    assert not any(one["mendable"] for one in found)
    users = {user for one in found for user in one["users"]}
    assert {f"container k8s.io/{container.id}", f"image k8s.io/{user}"} <= users
    assert f"image k8s.io/{node.base}" not in users
    node.cri.stop(container)
    for name in sorted(name.partition("/")[2] for name in users if name.startswith("image ")):
        node.containerd.ctr("-n", "k8s.io", "images", "remove", "--sync", name)
    assert node.differences() == []
    node.cri.pull(user)
    assert node.cri.run(user, ["/bin/cat", "/data/own"]).output == "of the user\n"
    assert node.differences() == []


def test_without_containerd_or_without_the_daemon(node: Node) -> None:
    """Only the other half is compared, and the exit status says that not everything could be told; a damage is still
    named. Nothing is mended without the daemon."""
    arguments = [*node.daemon.arguments(), "--json"]
    alone = CliRunner().invoke(fsck, [*arguments, "--containerd", "/nonexistent.sock"])
    assert alone.exit_code == 1
    assert "does not answer" in json.loads(alone.stdout)["problem"]
    top = node.directory_of(node.remote_chain()[-1].name)
    (top / "h").unlink()
    node.daemon.end()
    status, found = node.run(fsck)
    assert (status, kinds(found["differences"])) == (3, ["disk"])
    assert "cannot list the snapshots" in found["problem"]
    refused = CliRunner().invoke(fsck, [*arguments, "--containerd", str(node.containerd.socket), "--repair"])
    assert isinstance(refused.exception, FailedPrecondition)
    assert not os.path.lexists(top / "h")
    node.daemon.start()
    assert node.differences("--repair") == []


def test_a_containerd_that_does_not_know_us_is_refused(node: Node) -> None:
    """Everything would look like a leftover."""
    elsewhere = [*node.daemon.arguments()[:-1], "/tmp/elsewhere.sock"]
    with pytest.raises(FailedPrecondition, match=r"has no snapshotter at /tmp/elsewhere.sock"):
        look(node.containerd.socket, elsewhere[-1])
    assert look(node.containerd.socket, elsewhere[-1], PROXY).snapshotters == (PROXY,)
    with pytest.raises(FailedPrecondition, match=r"has no snapshotter 'nonesuch' .*it has .*overlayfs"):
        look(node.containerd.socket, elsewhere[-1], "nonesuch")


def test_a_container_is_found_by_what_people_call_it(node: Node) -> None:
    """Its id, the beginning of it, its pod; several and none are told apart."""
    socket = node.containerd.socket
    with node.cri.running(node.base, ["/bin/sleep", "1000"]) as container:
        name = resolve_container(node.config, container.id[:12], socket)
        assert name.startswith("k8s.io/")
        assert name.endswith(f"/{container.id}")
        with node.daemon.client() as client:
            assert client.stat(name).kind is Kind.ACTIVE
        assert resolve_container(node.config, f"k8s.io/{container.id}", socket) == name
        for one, text in ((container.id, "main"), (container.pod, "pod"), (container.id, "pod")):  # as kubelet does
            labels = {"main": "io.kubernetes.container.name", "pod": "io.kubernetes.pod.name"}
            node.containerd.ctr("-n", "k8s.io", "containers", "label", one, f"{labels[text]}={text}")
        assert resolve_container(node.config, "main", socket) == name
        with pytest.raises(InvalidArgument, match="means several"):
            resolve_container(node.config, "pod", socket)
        with pytest.raises(NotFound, match=r"is no container"):
            resolve_container(node.config, "no-such", socket)
    with pytest.raises(NotFound, match=r"as for containers: .*does not answer"):
        resolve_container(node.config, "main", Path("/nonexistent.sock"))


def test_a_node_is_left_in_the_order_that_drain_says(node: Node) -> None:
    """As long as something uses us it is named and the exit status is 3; each step makes it less; then containerd runs
    the same image on overlayfs, without us."""
    node.cri.pull(node.world.reference(node.world.user))
    with Client(node.containerd.socket, PROXY, "by-hand") as client:
        client.prepare("leased", "", {"containerd.io/gc.root": "test"})
    container = node.cri.start(node.base, ["/bin/sleep", "1000"])
    config = str(node.containerd.directory / "config.toml")
    status, found = node.run(drain, "--containerd-config", config)
    assert status == 3
    assert {one["id"] for one in found["containers"]} == {container.id, container.pod}
    images = {(one["namespace"], one["name"]) for one in found["images"]}
    assert {
        ("k8s.io", node.base),
        ("k8s.io", node.world.reference(node.world.user)),
        ("k8s.io", node.world.sandbox),
    } <= images
    assert found["snapshots"] == ["by-hand/leased"]
    assert any(line["text"] == f'snapshotter = "{PROXY}"' for line in found["config"])
    text = node.text(drain, "--containerd-config", config)
    commands = [line.strip() for line in text.splitlines() if line.startswith("     ")]
    assert f"crictl stop {container.id} && crictl rm {container.id}" in commands
    assert f"crictl stopp {container.pod} && crictl rmp {container.pod}" in commands
    switch_default(node)
    assert node.cri.exec(container, ["/bin/cat", "/data/one"]).output == "one\n"
    assert node.run(drain)[0] == 3
    node.cri.stop(container)
    assert not node.run(drain)[1]["containers"]
    for command in commands:
        if command.startswith("ctr "):
            node.containerd.ctr(*command.replace("'", "").split()[1:])
    deadline = time.monotonic() + 30
    while node.run(drain)[0] != 0:
        assert time.monotonic() < deadline, node.text(drain)
        time.sleep(0.5)
    assert node.text(drain).startswith("nothing uses it\n")
    node.daemon.end(signal.SIGTERM)
    assert node.run(drain)[0] == 0  # of the records on the disk, and containers and images; without us it lists nothing
    node.cri.pull(node.base)
    assert node.cri.run(node.base, _SHOW).output == _SHOWN


def switch_default(node: Node) -> None:
    """Has new containers use overlayfs, while the proxy plugin stays configured."""
    text = node.containerd.configuration().replace(f'snapshotter = "{PROXY}"', 'snapshotter = "overlayfs"')
    node.containerd.configuration = lambda: text  # type: ignore[method-assign]
    node.containerd.restart()
