"""`fsck`, `drain` and `explain CONTAINER`, beside a containerd that says what a test wants."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from protos.containerd.services.containers.v1.containers_pb2 import Container
from snapshotter.snapshots import Info, Kind
from tests.cli.commands import CONTAINER, Said, Told, command, told
from tests.enginestandin import Known, containerd
from tests.mounting import needs_root
from tests.snapshotter.indexing import chain_of

OURS = "cvmfs-snapshotter"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Told]:
    """A node of its own for each test: some are damaged."""
    with told(tmp_path, tables="index = false\n") as node:
        yield node


def known_of(node: Told) -> Known:
    """A containerd that agrees with the node."""
    base, top = str(chain_of(node.layers[:1])), str(chain_of(node.layers))
    snapshots = [
        Info(Kind.COMMITTED, base, "", 1, 1),
        Info(Kind.COMMITTED, top, base, 1, 1),
        Info(Kind.ACTIVE, "b24f0c", top, 1, 1),
        Info(Kind.ACTIVE, "download", "", 1, 1),
    ]
    container = Container(id="b24f0c", image="athena:25", snapshotter=OURS, snapshot_key="b24f0c")
    return Known(
        {OURS: str(node.daemon.address), "overlayfs": ""},
        {"k8s.io": snapshots},
        {"k8s.io": [container]},
        {"athena:25": "manifest"},
        {
            "manifest": {"containerd.io/gc.ref.content.config": "config"},
            "config": {f"containerd.io/gc.ref.snapshot.{OURS}": top},
        },
    )


def beside(node: Told, socket: Path, *arguments: str) -> Said:
    """A command that finds containerd by the variable that ctr reads."""
    return command(*arguments, *node.daemon.arguments(), environment={"CONTAINERD_ADDRESS": str(socket)})


@pytest.mark.slow
def test_nothing_differs(node: Told) -> None:
    """Exit status 0, and what was compared."""
    with containerd(known_of(node)) as socket:
        said = node("fsck", "--containerd", str(socket))
        assert (said.status, said.err) == (0, "")
        assert said.cells("containerd") == ["containerd", f"{socket}, 1.7.0: 4 snapshots of {OURS}"]
        assert said.cells("records") == ["records", "4"]
        assert said.out.splitlines()[-1] == "nothing differs"


@pytest.mark.slow
def test_what_differs_is_printed_and_mended(node: Told) -> None:
    """A damage with who needs it, and a leftover: exit status 3, then 0 with what was done."""
    top = node.daemon.root / "snapshots" / "2" / "h"
    link = os.readlink(top)
    top.unlink()
    with node.daemon.client() as client:
        client.prepare("k8s.io/99/left", "", {})
    with containerd(known_of(node)) as socket:
        said = node("fsck", "--containerd", str(socket), "--older-than", "0")
        assert said.status == 3
        assert "2 differences" in said.out
        assert f"disk: {top}\n  is nothing in place of a link to shim" in said.out
        assert "  used by container k8s.io/b24f0c\n  used by image k8s.io/athena:25\n" in said.out
        assert "leftover: k8s.io/99/left\n" in said.out
        done = node("fsck", "--containerd", str(socket), "--older-than", "0", "--repair", "--json")
        assert (done.status, done.json["differences"]) == (0, [])
        assert {one["path"]: one["done"] for one in done.json["mended"]} == {str(top): True, "k8s.io/99/left": True}
        assert os.readlink(top) == link


@pytest.mark.slow
@pytest.mark.root
def test_nothing_is_removed_where_containerds_processes_cannot_be_seen(node: Told) -> None:
    """Its containers could not be seen either, so nothing is known to be unused."""
    needs_root()
    with node.daemon.client() as client:
        client.prepare("k8s.io/99/left", "", {})
    with containerd(known_of(node)) as socket:
        arguments = [*node.daemon.arguments(), "--containerd", str(socket), "--older-than", "0", "--repair", "--json"]
        done = subprocess.run(
            ["unshare", "--pid", "--fork", sys.executable, "-m", "snapshotter.cli.main", "fsck", *arguments],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 3, done.stderr
        (one,) = json.loads(done.stdout)["mended"]
        assert "cannot be seen from here" in one["what"]
    with node.daemon.client() as client:
        assert client.stat("k8s.io/99/left").kind is Kind.ACTIVE


@pytest.mark.slow
def test_a_containerd_that_cannot_be_asked(node: Told) -> None:
    """The disk is compared without it; that is an error, and said."""
    said = node("fsck")
    assert (said.status, said.err) == (1, "")
    assert "containerd's side is MISSING: containerd '/nowhere/containerd.sock': does not answer" in said.out
    with containerd(replace(known_of(node), snapshots=None)) as socket:
        said = node("fsck", "--containerd", str(socket), "--json")
        assert (said.status, said.json["snapshots"], said.json["differences"]) == (1, None, [])
        assert said.json["problem"] == "it cannot list the snapshots (connection error)"


@pytest.mark.slow
def test_a_containerd_that_knows_another_daemon(node: Told) -> None:
    """Is an error with what it has to be told; the name wins over the address."""
    elsewhere = replace(known_of(node), snapshotters={OURS: "/run/elsewhere.sock"})
    with containerd(elsewhere) as socket:
        said = node("fsck", "--containerd", str(socket))
        assert said.status == 1
        assert (
            f"has no snapshotter at {node.daemon.address}; add it, as `cvmfs-snapshotter config containerd`" in said.out
        )
        assert node("fsck", "--containerd", str(socket), "--snapshotter", OURS).status == 0
        said = node("fsck", "--containerd", str(socket), "--snapshotter", "nonesuch")
        assert "has no snapshotter 'nonesuch' (it has cvmfs-snapshotter)" in said.out


@pytest.mark.slow
def test_drain_while_in_use_and_after(node: Told, tmp_path: Path) -> None:
    """Exit status 3 and the steps; 0 where nothing is left; 1 where that cannot be told."""
    config = tmp_path / "containerd.toml"
    config.write_text(f'[proxy_plugins]\n  [proxy_plugins.{OURS}]\n  address = "{node.daemon.address}"\n')
    with containerd(known_of(node)) as socket:
        said = node("drain", "--containerd", str(socket), "--containerd-config", str(config))
        assert (said.status, said.err) == (3, "")
        assert said.out.startswith("IN USE: 1 container, 1 image, 1 other snapshot\n")
        assert "crictl stop b24f0c && crictl rm b24f0c" in said.out
        assert f"{config}:2: [proxy_plugins.{OURS}]" in said.out
        steps = [line for line in said.out.splitlines() if line[:1].isdigit()]
        assert [line.split()[1] for line in steps] == ["Let", "Stop", "Remove", "Remove", "Ask", "Take", "Stop"]
    drained = Known({OURS: str(node.daemon.address)})
    with containerd(drained) as socket:
        said = node("drain", "--containerd", str(socket))
        assert said.status == 3
        assert said.out.startswith("IN USE: 4 records that containerd does not know: see `cvmfs-snapshotter fsck`\n")
        with node.daemon.client() as client:
            for name in (CONTAINER, "k8s.io/8/download", *reversed(node.names)):
                client.remove(name)
        said = node("drain", "--containerd", str(socket))
        assert (said.status, said.out.splitlines()[0]) == (0, "nothing uses it")
    with containerd(replace(drained, snapshots=None)) as socket:
        said = node("drain", "--containerd", str(socket))
        assert (said.status, said.out.splitlines()[0]) == (1, "nothing that could be asked for uses it")
    assert node("drain").status == 1


@pytest.mark.slow
def test_drain_where_the_plugin_was_taken_out_too_early(node: Told) -> None:
    """What still refers to it by its name is found."""
    early = replace(known_of(node), snapshotters={"overlayfs": ""})
    with containerd(early) as socket:
        said = node("drain", "--containerd", str(socket), "--json")
        assert said.status == 3
        assert [one["id"] for one in said.json["containers"]] == ["b24f0c"]
        assert [one["name"] for one in said.json["images"]] == ["athena:25"]
        assert f"has no snapshotter '{OURS}'" in said.json["unknown"][0]


def test_a_container_is_explained(node: Told) -> None:
    """By the beginning of its id, which is no snapshot's name."""
    with containerd(known_of(node)) as socket:
        said = beside(node, socket, "explain", "b24f", "--json")
        assert said.status == 0, said.err
        assert [shown["snapshot"]["name"] for shown in said.json["chain"]] == [CONTAINER, *reversed(node.names)]
        assert "is no container" in beside(node, socket, "explain", "zzz").err
