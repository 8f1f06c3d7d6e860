"""`snapshots` and `explain`."""

import re
from pathlib import Path

import pytest

from snapshotter import labels as label
from tests.cli.commands import ABSENT, CONTAINER, Told, told
from tests.snapshotter.layers import NAME


def test_all_snapshots_are_listed(node: Told) -> None:
    """With where each comes from, and why one was downloaded."""
    said = node("snapshots")
    assert said.status == 0
    assert len(said.out.splitlines()) == 5
    assert said.cells(node.names[0])[-1] == NAME
    assert said.cells(CONTAINER)[-1] == "local"
    assert said.cells("k8s.io/8/download")[-1].startswith(f"missed: absent: layer {ABSENT} is not published")


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        (["kind==active"], {CONTAINER, "k8s.io/8/download"}),
        ([f'labels."{label.MISS}"'], {"k8s.io/8/download"}),
        (["name~=/b24/"], {CONTAINER}),
        (["kind==active,name~=/b24/", f'labels."{label.MISS}"'], {CONTAINER, "k8s.io/8/download"}),
        (["kind==view"], set()),
    ],
)
def test_filters_choose(node: Told, filters: list[str], names: set[str]) -> None:
    """containerd's grammar; one of several has to match."""
    said = node("snapshots", "--json", *(word for text in filters for word in ("--filter", text)))
    assert {found["name"] for found in said.json} == names


def test_a_filter_that_is_none_is_refused(node: Told) -> None:
    """With the grammar, and exit status 1."""
    said = node("snapshots", "--filter", "kind=active")
    assert said.status == 1
    assert said.err.startswith("error: filter 'kind=active': at character 4:")


def test_the_json_of_a_snapshot_has_all_its_fields(node: Told) -> None:
    """Labels, the layer's digest, the shims and the reason of a miss."""
    found = {one["name"]: one for one in node("snapshots", "--json").json}
    base = found[node.names[0]]
    assert (base["kind"], base["repository"], base["layer"]) == ("committed", NAME, str(node.layers[0]))
    assert base["labels"][label.REMOTE] == NAME
    assert re.fullmatch("[0-9a-f]{64}", base["hide"])
    assert re.fullmatch("[0-9a-f]{64}", base["white"])
    assert base["revision"] is None
    assert found["k8s.io/8/download"]["miss"].startswith("absent: ")
    assert found[CONTAINER]["parent"] == node.names[1]


def test_a_container_is_explained(node: Told) -> None:
    """Its layers, topmost first, where each is, what stands around it, and the mounts; by the end of its name."""
    said = node("explain", "b24f0c")
    assert said.status == 0
    lines = said.out.splitlines()
    assert lines[0].startswith(f"active snapshot {CONTAINER}, made ")
    assert lines[1] == "all its layers can be read now"
    order = [said.out.index(f"\n{layer}") for layer in reversed(node.layers)]
    assert order == sorted(order)
    for layer in node.layers:
        assert f"  in {NAME} at {node.repository.layout.layerfs(layer)}" in lines
    mounts = lines[lines.index("its mounts:") :]
    assert mounts[1] == "  type overlay, source overlay"
    lowers = [line.strip().rpartition("snapshots/")[2] for line in mounts if line.startswith("      /")]
    assert lowers == ["2/h", "2/fs", "1/h", "1/fs", "1/w"]


@pytest.mark.slow
def test_the_mounts_are_those_that_the_engine_gets(node: Told) -> None:
    """Option for option; of a committed snapshot those of a view of it."""
    with node.daemon.client() as client:
        real = client.mounts(CONTAINER)
        view = client.view("k8s.io/10/look", node.names[1], {})
        client.remove("k8s.io/10/look")
    active, committed = node("explain", CONTAINER, "--json").json, node("explain", node.names[1], "--json").json
    assert active["mounts"] == [{"type": m.type, "source": m.source, "options": list(m.options)} for m in real]
    assert committed["mounts"] == [{"type": m.type, "source": m.source, "options": list(m.options)} for m in view]
    assert (active["of_view"], committed["of_view"]) == (False, True)
    assert [shown["snapshot"]["name"] for shown in active["chain"]] == [CONTAINER, *reversed(node.names)]


def test_a_miss_is_explained(node: Told) -> None:
    """Why the layer was downloaded, in the second line."""
    said = node("explain", "download")
    assert said.out.splitlines()[1].startswith(
        f"its layer was wanted from a repository and missed: absent: layer {ABSENT}"
    )


@pytest.mark.slow
def test_the_beginning_of_a_key_is_enough(node: Told) -> None:
    """As with every tool that takes a container's id."""
    assert node("explain", "b24", "--json").json == node("explain", CONTAINER, "--json").json


@pytest.mark.slow
def test_a_name_that_nothing_has_is_an_error(node: Told) -> None:
    """And one that several have names them."""
    said = node("explain", "nothing")
    assert said.status == 1
    assert said.err.startswith(
        "error: snapshot or container 'nothing': is neither: snapshot 'nothing': does not exist; "
    )
    assert "/nowhere/containerd.sock" in said.err
    with node.daemon.client() as client:
        client.prepare("moby/1/b24f0c", "", {})
        ambiguous = node("explain", "b24f0c")
        client.remove("moby/1/b24f0c")
    assert ambiguous.status == 1
    assert f"means several: {CONTAINER}, moby/1/b24f0c" in ambiguous.err


@pytest.mark.slow
def test_a_layer_that_cannot_be_read_now_is_said(tmp_path: Path) -> None:
    """The explanation comes all the same."""
    with told(tmp_path, probe_interval=0.1) as node:
        node.repository.layout.layer(node.layers[0]).rename(tmp_path / "away")
        said = node("explain", CONTAINER)
    assert said.status == 0
    assert re.match(f"it cannot be mounted NOW: absent: layer {node.layers[0]}", said.out.splitlines()[1])


@pytest.mark.slow
def test_both_work_without_a_daemon(tmp_path: Path) -> None:
    """The same answers, from the disk; and the daemon starts afterwards."""
    with told(tmp_path) as node:
        before = [node("snapshots", "--json").json, node("explain", CONTAINER, "--json").json]
        node.daemon.stop()
        after = [node("snapshots", "--json").json, node("explain", CONTAINER, "--json").json]
        node.daemon.start()
    assert after == before


@pytest.mark.slow
def test_names_cannot_steer_a_terminal(tmp_path: Path) -> None:
    """A name that somebody else chose is shown with its control characters spelled out."""
    with told(tmp_path) as node:
        with node.daemon.client() as client:
            client.prepare("k8s.io/3/\x1b[31mred", "", {})
        said = node("snapshots")
    assert "\x1b" not in said.out
    assert r"k8s.io/3/\x1b[31mred" in said.out
