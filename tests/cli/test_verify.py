"""`verify`: a served image against the original, from every form of a repository."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.layout import Layout
from tests.cli.commands import Said
from tests.cli.imagecommands import HERE, NAME, configuration, image, repository, run
from tests.conftest import mounts_below
from tests.engines.registry import Registry
from tests.fidelity.publishing import Form
from tests.images.debian import deep_image
from tests.images.ocilayout import write_image
from tests.images.tarlayer import File, layer_tar
from tests.mounting import mounted, standin
from tests.publisher.stub_registry import stub_registry

pytestmark = pytest.mark.root


def verified(tmp_path: Path, root: Path, *options: str) -> Said:
    """The image of the layout against what is served of it; nothing is left behind."""
    place = tmp_path / "place"
    place.mkdir(exist_ok=True)
    against = image(tmp_path / "layout").source
    arguments = ("verify", NAME, "--against", against, "--directory", place, *options)
    said = run(*arguments, config=configuration(tmp_path, {HERE: root}))
    assert os.listdir(place) == []
    assert mounts_below(place) == []
    return said


@pytest.mark.parametrize("form", [Form.OVERLAY, Form.OCI])
def test_a_directory_is_served_equal(form: Form, tmp_path: Path) -> None:
    """Every name, attribute and byte, in both notations; the space that the original takes is said before."""
    root = repository(tmp_path / "repository", image(tmp_path / "layout"), form)
    said = verified(tmp_path, root)
    assert said.status == 0, said
    assert said.out.splitlines()[-1] == "EQUAL: every name, attribute and byte"
    assert "the original takes " in said.err
    said = verified(tmp_path, root, "--json")
    assert (said.json["equal"], said.json["losses"], said.json["faults"]) == (True, [], [])
    assert said.json["entries"] == 13
    assert said.json["files"] == 7


@pytest.mark.fuse
@pytest.mark.parametrize("form", [Form.INGESTED, Form.DUCC])
def test_what_an_ingest_lost_is_named(form: Form, tmp_path: Path) -> None:
    """As known losses, each with its reason; whether they count is the caller's choice."""
    root = repository(tmp_path / "repository", image(tmp_path / "layout"), form)
    with standin(root, tmp_path / "cvmfs"):
        said = verified(tmp_path, tmp_path / "cvmfs", "--json")
        assert said.status == 3, said
        assert said.json["faults"] == []
        lost = {loss["what"]: loss["count"] for loss in said.json["losses"]}
        assert lost.keys() == {"owners", "hard links", "extended attributes", "parts of a second"}
        assert lost["hard links"] == 2
        said = verified(tmp_path, tmp_path / "cvmfs", "--known-losses-ok")
        assert said.status == 0
        assert said.out.splitlines()[-1] == "EQUAL but for known losses"
        assert "993:990" in said.out


@pytest.mark.fuse
def test_a_client_that_claims_ownership_is_recognised(tmp_path: Path) -> None:
    """All entries have one owner then; the hard links are lost on every mount."""
    root = repository(tmp_path / "repository", image(tmp_path / "layout"))
    with standin(root, tmp_path / "cvmfs", claim=(995, 991)):
        said = verified(tmp_path, tmp_path / "cvmfs", "--json")
    assert (said.status, said.json["faults"]) == (3, [])
    assert {loss["what"] for loss in said.json["losses"]} == {"owners", "hard links"}


@pytest.mark.slow
def test_a_difference_is_shown_with_both_values(tmp_path: Path) -> None:
    """Another byte, another mode, a name too many: each is a line, and exit status 3, whatever losses may be."""
    published = image(tmp_path / "layout")
    root = repository(tmp_path / "repository", published)
    base = Layout(root).layerfs(Digest.parse(published.layers[0]))
    (base / "etc/kept").write_bytes(b"Base\n" * 1000)
    os.utime(base / "etc/kept", ns=(1_600_000_000_500_000_000,) * 2)
    (base / "bin/shell").chmod(0o700)
    (base / "bin/new").write_bytes(b"")
    said = verified(tmp_path, root, "--known-losses-ok", "--json")
    assert said.status == 3
    found = {(fault["path"], fault["field"]) for fault in said.json["faults"]}
    assert found >= {("/etc/kept", "content"), ("/bin/shell", "mode"), ("/bin/new", "extra")}
    said = verified(tmp_path, root)
    assert "DIFFERS: " in said.out
    assert "0o755" in said.out


@pytest.mark.slow
def test_a_registry_is_asked_as_the_publisher_asks_it(tmp_path: Path) -> None:
    """By a mirror, for one: manifest and layers, as the file says."""
    published = image(tmp_path / "layout")
    with stub_registry(published) as mirror:
        settings = tmp_path / "publisher.toml"
        settings.write_text(f'[registries."registry.invalid"]\nmirrors = ["{mirror.address}"]\n')
        name = "registry.invalid/group/image:1"
        config = configuration(tmp_path, {HERE: repository(tmp_path / "r", published, name=name)})
        for words in (
            ("verify",),
            ("image", "--from", "registry"),
            ("prefetch", "--from", "registry", "--files", "none"),
        ):
            said = run(*words, name, "--registries", settings, config=config)
            assert (said.status, "registry.invalid" in said.out) == (0, True), said.err
        assert any(published.layers[0] in request for request in mirror.behaviour.requests)


@pytest.mark.slow
def test_the_registry_is_the_original_by_default(tmp_path: Path) -> None:
    """Layers are fetched from it and verified."""
    published = image(tmp_path / "layout")
    with stub_registry(published) as registry:
        name = registry.source.removeprefix("docker://")
        root = repository(tmp_path / "repository", published, name=name)
        config = configuration(tmp_path, {HERE: root})
        said = run("verify", name, "--directory", tmp_path, config=config)
        assert said.status == 0, said
        assert "against the registry 127.0.0.1:" in said.out
        assert [r for r in registry.behaviour.requests if published.layers[0] in r]
        registry.behaviour.cut_after = 10
        said = run("verify", name, "--directory", tmp_path, config=config)
        assert (said.status, said.out) == (1, "")


@pytest.mark.engine
@pytest.mark.fuse
def test_a_real_registry_is_asked_as_a_pull_would(tmp_path: Path) -> None:
    """`image` reads its documents alone, `verify` the layers too; a tag that was moved is another image."""
    published = image(tmp_path / "layout")
    (tmp_path / "repository").mkdir()
    with Registry(tmp_path / "registry") as registry, standin(tmp_path / "repository", tmp_path / "cvmfs") as client:
        name = registry.push(published.path, published.ref, "test/image:1")
        repository(client.source, published, Form.OCI, name)
        config, mark = configuration(tmp_path, {HERE: tmp_path / "cvmfs"}), registry.mark()
        assert run("image", name, config=config).status == 0
        assert registry.blob_requests(mark) == [published.config]
        said = run("verify", name, "--directory", tmp_path, "--json", config=config)
        assert [loss["what"] for loss in said.json["losses"]] == ["hard links"], said
        assert set(published.layers) <= set(registry.blob_requests(mark))
        registry.push(published.path, image(tmp_path / "layout", "moved", "zstd").ref, "test/image:1")
        assert run("image", name, config=config).status == 3


def test_an_image_that_is_not_served_whole_cannot_be_verified(tmp_path: Path) -> None:
    """The layer and the reason are named; nothing is fetched."""
    published = image(tmp_path / "layout")
    root = repository(tmp_path / "repository", published)
    shutil.rmtree(Layout(root).layer(Digest.parse(published.layers[1])))
    said = verified(tmp_path, root)
    assert (said.status, said.out) == (1, "")
    assert f"error: layer '{published.layers[1]}': number 2 is not served: absent" in said.err


def test_too_little_space_is_said_before_anything_is_unpacked(tmp_path: Path) -> None:
    """The records say how much it is."""
    root = repository(tmp_path / "repository", image(tmp_path / "layout"))
    with mounted("tmpfs", "tmpfs", tmp_path / "place", ["size=8k"]):
        said = verified(tmp_path, root)
    assert said.status == 1
    assert "has too little space; give another --directory" in said.err


def test_an_original_of_no_known_form_is_refused(tmp_path: Path) -> None:
    """With the forms that there are."""
    said = run("verify", NAME, "--against", "docker-archive:x", config=configuration(tmp_path, {}))
    assert said.status == 1
    assert "give registry or oci:PATH[:REF]" in said.err


@pytest.mark.slow
def test_a_request_to_end_leaves_nothing_behind(tmp_path: Path) -> None:
    """Neither a directory nor a mount nor a process."""
    published = write_image(tmp_path / "layout", [layer_tar([File("large", os.urandom(100_000))])], "large")
    place = tmp_path / "place"
    place.mkdir()
    with stub_registry(published) as registry:
        name = registry.source.removeprefix("docker://")
        root = repository(tmp_path / "repository", published, name=name)
        registry.behaviour.hold_after = 50_000  # more than its documents have
        config = configuration(tmp_path, {HERE: root})
        program = "from snapshotter.cli.main import main; main()"
        arguments = ["verify", name, "--directory", str(place), "--config", str(config)]
        process = subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE)
        assert registry.behaviour.held.wait(30)
        assert os.listdir(place)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130
        process.communicate()
    deadline = time.monotonic() + 10
    while os.listdir(place) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert os.listdir(place) == []
    assert mounts_below(place) == []


@pytest.mark.engine
@pytest.mark.slow
def test_an_image_of_a_hundred_layers_is_mounted_too(tmp_path: Path) -> None:
    """Its lower directories do not fit into a mount's options as they are."""
    deep = deep_image()
    root = repository(tmp_path / "repository", deep)
    arguments = ("verify", NAME, "--against", deep.source, "--directory", tmp_path)
    said = run(*arguments, config=configuration(tmp_path, {HERE: root}))
    assert said.status == 0, said


@pytest.mark.fuse
def test_a_repository_that_is_away_is_no_difference(tmp_path: Path) -> None:
    """The reason is that of a pull."""
    root = repository(tmp_path / "repository", image(tmp_path / "layout"))
    with standin(root, tmp_path / "cvmfs") as client:
        client.fault("enotconn", "/.layers")
        said = verified(tmp_path, tmp_path / "cvmfs")
    assert (said.status, said.out) == (1, "")
    assert "is not served: unmounted" in said.err
