"""What real containerd of three generations says of our snapshots, against our records and the disk; and how a node is
mended."""

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner

from cvmfsrepo.digest import chain_id
from cvmfsrepo.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from snapshotter.cli.containers import resolve_container
from snapshotter.cli.fsck import fsck
from snapshotter.client import Client
from snapshotter.engine import look
from snapshotter.snapshots import Kind
from tests.engines.compared import SHOW, SHOWN, Node, World, made_node, made_world, prefixes
from tests.engines.containerd import PROXY, VERSIONS
from tests.mounting import mounted_apart

pytestmark = [pytest.mark.engine, pytest.mark.fuse, pytest.mark.root]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with made_world(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture(params=VERSIONS)
def node(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> Iterator[Node]:
    with made_node(request.param, world, tmp_path) as node:
        yield node


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is under way on the node but what a test does: its second look need not wait for it to settle."""
    monkeypatch.setattr("snapshotter.cli.fsck._SETTLE", 0.1)


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


def test_a_busy_node_has_no_differences(node: Node) -> None:
    """While images and containers come and go nothing that is under way is taken for damage, nor removed."""
    user, over = node.world.reference(node.world.user), threading.Event()

    def work() -> None:
        while not over.is_set():
            node.cri.pull(user)
            assert node.cri.run(user, ["/bin/cat", "/data/own"]).output == "of the user\n"
            node.cri.remove_image(user)

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        try:
            for _ in range(4):
                assert node.differences("--repair") == []
                time.sleep(0.3)
        finally:
            over.set()
        working.result()


@pytest.mark.usefixtures("still")
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
        assert node.cri.exec(container, SHOW).output == SHOWN
        again = node.cri.run(node.base, SHOW)
        assert (again.exit_code, again.output) == (0, SHOWN)


@pytest.mark.usefixtures("still")
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
    with mounted_apart(mount.type, mount.source, tmp_path / "merged", mount.options):
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
    assert node.cri.run(node.base, SHOW).output == SHOWN


@pytest.mark.usefixtures("still")
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
    with pytest.raises(grpc.RpcError, match=r"target snapshot .* already exists"):
        node.cri.pull(user)
    node.cri.stop(container)
    for name in sorted(name.partition("/")[2] for name in users if name.startswith("image ")):
        node.containerd.ctr("-n", "k8s.io", "images", "remove", "--sync", name)
    assert node.differences() == []
    node.cri.pull(user)
    assert node.cri.run(user, ["/bin/cat", "/data/own"]).output == "of the user\n"
    node.collect()
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
    with pytest.raises(grpc.RpcError):  # which is why a node is drained first
        node.cri.run(node.base, SHOW)
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
    with pytest.raises(Unavailable, match=r"does not answer .*start it, or name its socket"):
        resolve_container(node.config, "main", Path("/nonexistent.sock"))
