"""`image`: what it says of images that are published whole, in part, or not at all, and of repositories that hang."""

import shutil
import time
from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.layout import Layout
from tests.cli.imagecommands import HERE, NAME, THERE, configuration, image, repository, run
from tests.fidelity.publishing import Form
from tests.mounting import standin
from tests.publisher.stub_registry import stub_registry
from tests.snapshotter.daemon import Daemon
from tests.snapshotter.nodes import eventually

pytestmark = pytest.mark.root


def take_away(root: Path, layer: str) -> None:
    shutil.rmtree(Layout(root).layer(Digest.parse(layer)))


@pytest.mark.parametrize("form", Form)
def test_a_published_image_is_ready(form: Form, tmp_path: Path) -> None:
    """In every form that a repository may have; deletions are counted, without a record by a walk."""
    root = repository(tmp_path / "repository", image(tmp_path / "layout"), form)
    said = run("image", NAME, "--from", "repository", "--json", config=configuration(tmp_path, {HERE: root}))
    assert (said.status, said.err) == (0, "")
    found = said.json
    assert (found["ready"], found["download_bytes"], found["best"]) == (True, 0, None)
    assert [layer["served_by"] for layer in found["layers"]] == [HERE] * 3
    assert [layer["looks"][0]["markers"] for layer in found["layers"]] == [0, 1, 0]


@pytest.mark.slow
def test_the_answer_for_a_person_is_one_word_and_why(tmp_path: Path) -> None:
    """A table of the layers, and YES or NO at the end."""
    published = image(tmp_path / "layout")
    root = repository(tmp_path / "repository", published)
    config = configuration(tmp_path, {HERE: root})
    said = run("image", NAME, "--from", "repository", config=config)
    assert said.out.splitlines()[0] == f"{NAME} (linux/amd64), as the repository {HERE} says"
    assert said.out.splitlines()[-1].startswith("YES: nothing is downloaded of 3 layers")
    assert "engine configuration: not checked: no containerd was found here" in said.out
    take_away(root, published.layers[1])
    said = run("image", NAME, "--from", "repository", config=config)
    assert said.status == 3
    assert "NO: 2 of 3 layers would be downloaded: layers from 2 on" in said.out
    assert f"publish layer 2, {published.layers[1]}: that alone saves" in said.out
    assert f"absent: layer {published.layers[1]} is not published in {HERE}" in said.out
    assert "stands above layer 2" in said.out


def test_a_missing_layer_downloads_it_and_all_above(tmp_path: Path) -> None:
    """The bytes are those of the compressed blobs; the one layer to publish is named, with what it saves."""
    published = image(tmp_path / "layout")
    sizes = [published.blob(layer).stat().st_size for layer in published.layers]
    root = repository(tmp_path / "repository", published)
    take_away(root, published.layers[1])
    said = run("image", published.source, "--json", config=configuration(tmp_path, {HERE: root}))
    assert said.status == 3
    assert said.json["download_bytes"] == sum(sizes[1:])
    assert said.json["total_bytes"] == sum(sizes)
    assert said.json["first_missing"] == 2
    assert said.json["best"] == {"number": 2, "digest": published.layers[1], "bytes_saved": sum(sizes[1:])}
    assert [layer["is_downloaded"] for layer in said.json["layers"]] == [False, True, True]
    assert said.json["layers"][1]["looks"][0]["reason"] == "absent"


def test_layers_may_come_from_several_repositories(tmp_path: Path) -> None:
    """The first that has a layer serves it; one that is not mounted is no obstacle."""
    published = image(tmp_path / "layout")
    first, second = (repository(tmp_path / name, published) for name in ("first", "second"))
    take_away(first, published.layers[0])
    config = configuration(tmp_path, {"away.example.org": tmp_path / "away", HERE: first, THERE: second})
    said = run("image", published.source, "--json", config=config)
    assert said.status == 0
    assert [layer["served_by"] for layer in said.json["layers"]] == [THERE, HERE, HERE]
    assert said.json["layers"][0]["looks"][0]["reason"] == "unmounted"


def test_the_registry_says_what_an_image_is_now(tmp_path: Path) -> None:
    """A tag that was moved there means the new image; that the repository has another one is said."""
    new, old = image(tmp_path / "layout"), image(tmp_path / "layout", "old", layers=2)
    with stub_registry(new) as registry:
        name = registry.source.removeprefix("docker://")
        root = repository(tmp_path / "repository", old, name=name)
        said = run("image", name, "--json", config=configuration(tmp_path, {HERE: root}))
    assert said.status == 3
    assert said.json["origin"].startswith("the registry 127.0.0.1:")
    assert [layer["is_downloaded"] for layer in said.json["layers"]] == [False, False, True]
    assert [note for note in said.json["notes"] if f"{HERE} publishes another image by this name" in note]
    assert not [request for request in registry.behaviour.requests if new.layers[0] in request], "only documents"


@pytest.mark.slow
def test_a_registry_that_is_away_is_no_obstacle(tmp_path: Path) -> None:
    """The repository's manifest is as good, and the answer says so; asked for the registry alone there is none."""
    with stub_registry(image(tmp_path / "layout")) as registry:
        name = registry.source.removeprefix("docker://")
    root = repository(tmp_path / "repository", image(tmp_path / "layout"), name=name)
    config = configuration(tmp_path, {HERE: root})
    said = run("image", name, "--json", config=config)
    assert said.status == 0
    assert said.json["origin"] == f"the repository {HERE}"
    assert said.json["notes"][0].startswith("the registry was of no help: image ")
    said = run("image", name, "--from", "registry", config=config)
    assert (said.status, said.out) == (1, "")
    assert said.err.startswith("error: image ")
    assert "look whether the registry runs" in said.err


@pytest.mark.slow
def test_an_image_that_nobody_knows_cannot_be_told(tmp_path: Path) -> None:
    """Exit status 1, and one line."""
    root = repository(tmp_path / "repository", image(tmp_path / "layout"))
    config = configuration(tmp_path, {HERE: root})
    for text in ("registry.example.org/no/such:1", "Not A Reference", "oci:/nowhere"):
        said = run("image", text, "--from", "repository", config=config)
        assert (said.status, said.out) == (1, ""), said
        assert said.err.startswith("error: ")
        assert said.err.count("\n") == 1


def test_an_image_for_another_machine_is_said_to_be(tmp_path: Path) -> None:
    """A repository keeps one image under a name, whatever platform is asked for."""
    root = repository(tmp_path / "repository", image(tmp_path / "layout"))
    config = configuration(tmp_path, {HERE: root})
    said = run("image", NAME, "--from", "repository", "--platform", "linux/s390x", "--json", config=config)
    assert said.json["notes"] == ["it is an image for linux/amd64, not for linux/s390x"]


@pytest.mark.slow
def test_another_compression_of_the_same_layers(tmp_path: Path) -> None:
    """Where nothing but diff ids finds it, it counts as missing, and the answer says under which name it is there; a
    daemon's index knows the chain, and then it is served."""
    root = repository(tmp_path / "repository", image(tmp_path / "zstd", compression="zstd"))
    asked, published = image(tmp_path / "layout"), image(tmp_path / "zstd", compression="zstd")
    config = configuration(tmp_path, {HERE: root})
    said = run("image", asked.source, "--json", config=config)
    assert said.status == 3
    assert said.json["layers"][0]["looks"][0]["served_as"] == published.layers[0]
    with Daemon(tmp_path / "state", repository=HERE, absolute_mountpoint=root, index_interval=0.2) as daemon:
        arguments = ("image", asked.source, "--json", "--address", daemon.address)
        eventually(lambda: run(*arguments, config=config).status == 0, 30)
        found = run(*arguments, config=config).json
    assert [layer["looks"][0]["served_as"] for layer in found["layers"]] == list(published.layers)


@pytest.mark.slow
def test_a_policy_may_refuse_what_would_be_downloaded(tmp_path: Path) -> None:
    """Then the pull fails instead, and the answer says so."""
    published = image(tmp_path / "layout")
    root = repository(tmp_path / "repository", published)
    policy = '[[policy]]\nimages = ["registry.example.org/*"]\nmiss = "require"\n'
    config = configuration(tmp_path, {HERE: root}, policy)
    assert not run("image", NAME, "--from", "repository", "--json", config=config).json["refused"]
    take_away(root, published.layers[2])
    said = run("image", NAME, "--from", "repository", config=config)
    assert said.status == 3
    assert "NO: the policy of this node refuses the pull" in said.out


@pytest.mark.parametrize(("disabled", "status"), [("false", 0), ("true", 3)])
def test_an_engine_that_names_no_layers_downloads_everything(disabled: str, status: int, tmp_path: Path) -> None:
    """Though every layer is there: the doctor's findings on containerd's configuration count."""
    root = repository(tmp_path / "repository", image(tmp_path / "layout"))
    config, engine = configuration(tmp_path, {HERE: root}), tmp_path / "containerd.toml"
    engine.write_text(
        f'version = 2\n[proxy_plugins.cvmfs-snapshotter]\ntype = "snapshot"\naddress = "{tmp_path}/s.sock"\n'
        '[plugins."io.containerd.grpc.v1.cri".containerd]\n'
        f'snapshotter = "cvmfs-snapshotter"\ndisable_snapshot_annotations = {disabled}\n'
    )
    told = ("--engine-config", engine, "--containerd-version", "1.7.27")
    said = run("image", NAME, "--from", "repository", *told, config=config)
    assert said.status == status, said
    if status:
        assert "NO: all of " in said.out
        assert "disable_snapshot_annotations is on" in said.out
    else:
        assert "containerd 1.7.27" in said.out
        assert "asks for layers" in said.out


@pytest.mark.fuse
def test_a_repository_that_hangs_is_said_within_its_deadline(tmp_path: Path) -> None:
    """One deadline for all layers, and the command ends although its calls hang on; another repository's answers
    count."""
    published = image(tmp_path / "layout")
    root, other = (repository(tmp_path / name, published) for name in ("repository", "other"))
    with standin(root, tmp_path / "cvmfs") as client:
        client.fault("stall", "/.layers")
        alone = configuration(tmp_path, {HERE: tmp_path / "cvmfs"}, deadline=1.0)
        began = time.monotonic()
        said = run("image", published.source, "--json", config=alone)
        assert time.monotonic() - began < 10
        assert said.status == 3
        assert {layer["looks"][0]["reason"] for layer in said.json["layers"]} <= {"timeout", "breaker-open"}
        both = configuration(tmp_path, {HERE: tmp_path / "cvmfs", THERE: other}, deadline=1.0)
        said = run("image", published.source, "--json", config=both)
        assert said.status == 0
        assert {layer["served_by"] for layer in said.json["layers"]} == {THERE}
        client.clear()


@pytest.mark.fuse
def test_an_image_cannot_be_told_while_its_manifest_hangs(tmp_path: Path) -> None:
    """Exit status 1 and why, not 3: nobody knows what the image is."""
    root = repository(tmp_path / "repository", image(tmp_path / "layout"))
    with standin(root, tmp_path / "cvmfs") as client:
        client.fault("stall", "/.metadata")
        config = configuration(tmp_path, {HERE: tmp_path / "cvmfs"}, deadline=1.0)
        said = run("image", NAME, "--from", "repository", config=config)
        client.clear()
    assert (said.status, said.out) == (1, "")
    assert "no answer within 1 s" in said.err
