"""Passes over a wish list, against a registry on the loopback."""

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Reference
from cvmfsrepo.repository import Pointer
from publisher.registry.registries import Registries
from publisher.transactions.directory import DirectoryTarget
from publisher.wishes.recipe import parse_recipe
from publisher.wishes.run import Outcome, Pass
from publisher.wishes.state import StateDirectory
from publisher.wishes.status import Line, walk_status
from tests.images.tarlayer import File, layer_tar
from tests.publisher.publishing import command, make_image, make_repository, run, state
from tests.publisher.wishes.stub import Stub, running

pytestmark = pytest.mark.root


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[Stub]:
    names = ("one:1", "atlas/a:22.1", "atlas/a:21", "atlas/b:22.2")
    images = {
        name: make_image(tmp_path / f"image{number}", layer_tar([File("f", name.encode())]))
        for number, name in enumerate(names)
    }
    with running(Stub(images=images)) as served:
        yield served


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "repository")


def one_pass(stub: Stub, repository: Path, *wishes: str, patient: bool = False) -> list[Outcome]:
    recipe = parse_recipe(_recipe(stub, *wishes), "r")
    known = StateDirectory.at(repository.parent / "state")
    target = DirectoryTarget.at(repository, durable=False)
    return list(Pass(target, Registries(), known, patient=patient).run(recipe))


def _recipe(stub: Stub, *wishes: str) -> bytes:
    lines = "".join(f" - 'http://{stub.address}/{wish}'\n" for wish in wishes)
    return f"version: 1\ninput:\n{lines}".encode()


def test_an_unchanged_image_costs_one_request(stub: Stub, repository: Path) -> None:
    """A HEAD for each, and not a byte of the repository changes."""
    assert [o.word for o in one_pass(stub, repository, "one:1", "atlas/*:22*")] == ["published"] * 3
    before = state(repository)
    stub.requests.clear()
    assert [o.word for o in one_pass(stub, repository, "one:1", "atlas/a:22.1")] == ["present"] * 2
    assert sorted(stub.requests) == ["HEAD /v2/atlas/a/manifests/22.1", "HEAD /v2/one/manifests/1"]
    assert state(repository) == before


def test_a_tag_that_moved_and_an_image_that_went_are_published(stub: Stub, repository: Path) -> None:
    """State alone is not believed: the repository has to show what it says."""
    one_pass(stub, repository, "one:1")
    Layout(repository).image_pointer(Reference.parse(f"{stub.address}/one:1")).unlink()
    assert [o.word for o in one_pass(stub, repository, "one:1")] == ["published"]
    stub.images["one:1"] = stub.images["atlas/a:21"]
    assert [o.word for o in one_pass(stub, repository, "one:1")] == ["published"]


@pytest.mark.parametrize("status", [401, 404, 500])
def test_a_failure_stops_no_other_image(stub: Stub, repository: Path, status: int) -> None:
    """It has its reason, nothing of it is in the repository, and it is published when the registry gives it."""
    stub.statuses["/v2/one/"] = status
    one, other = one_pass(stub, repository, "one:1", "atlas/a:21")
    assert (one.word, other.word) == ("failed", "published")
    assert one.reason
    assert not Layout(repository).image_metadata(Reference.parse(f"{stub.address}/one:1")).exists()
    assert [o.word for o in one_pass(stub, repository, "one:1", patient=True)] == ["waiting"]
    stub.statuses.clear()
    assert [o.word for o in one_pass(stub, repository, "one:1")] == ["published"]


@pytest.mark.parametrize("part", ["/manifests/", "/blobs/"])
def test_garbage_leaves_the_repository_as_it_was(stub: Stub, repository: Path, part: str) -> None:
    """Nothing that is not what its digest promises comes in."""
    one_pass(stub, repository, "atlas/a:21")
    before = state(repository)
    stub.garbage.add(f"/v2/one{part}")
    assert [o.word for o in one_pass(stub, repository, "one:1")] == ["failed"]
    assert state(repository) == before


def shown(known: StateDirectory, repository: Path) -> list[Line]:
    return [*walk_status(known, Layout(repository), time.time())]


def test_status_tells_stale_from_wanted(stub: Stub, repository: Path) -> None:
    """Also after a pattern that nobody could expand: what it meant before is not called stale."""
    one_pass(stub, repository, "one:1", "atlas/*:22*")
    stub.statuses["_catalog"] = 500
    assert one_pass(stub, repository, "atlas/*:22*")[-1].word == "failed"
    known = StateDirectory.at(repository.parent / "state")
    assert {line.word for line in shown(known, repository)} == {"present"}
    stub.statuses.clear()
    one_pass(stub, repository, "atlas/*:22*")
    assert [line.word for line in walk_status(known, Layout(repository), time.time())] == [
        "present",
        "present",
        "stale",
    ]


def test_each_platform_is_published_and_an_unchanged_index_costs_one_request(stub: Stub, repository: Path) -> None:
    """The first under the image's name, the second under its manifest's digest; both lead to the index."""
    first, second = stub.images["atlas/a:22.1"], stub.images["atlas/a:21"]
    entries = [
        {
            "digest": image.manifest, "size": image.blob(image.manifest).stat().st_size,
            "platform": {"os": "linux", "architecture": architecture},
        }
        for image, architecture in ((first, "amd64"), (second, "arm64"))
    ]  # fmt: skip
    stub.indexes["atlas/a:both"] = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    text = _recipe(stub, "atlas/a:both") + b"cvmfs-publisher: {platforms: [linux/amd64, linux/arm64]}\n"
    known, target = StateDirectory.at(repository.parent / "state"), DirectoryTarget.at(repository, durable=False)
    for word in ("published", "present"):
        stub.requests.clear()
        assert [o.word for o in Pass(target, Registries(), known).run(parse_recipe(text, "r"))] == [word]
    assert stub.requests == ["HEAD /v2/atlas/a/manifests/both"]
    index = Digest.of(stub.indexes["atlas/a:both"])
    for name, image in ((":both", first), (f"@{second.manifest}", second)):
        path = Layout(repository).image_pointer(Reference.parse(f"{stub.address}/atlas/a{name}"))
        assert Pointer.parse(path.read_bytes(), "p") == Pointer(Digest.parse(image.manifest), (index,))


def test_damaged_state_is_put_aside(stub: Stub, repository: Path) -> None:
    """And the image is looked at anew."""
    one_pass(stub, repository, "one:1")
    known = StateDirectory.at(repository.parent / "state")
    (path,) = (known.root / "images").glob("*.json")
    path.write_bytes(b"\xff{")
    assert known.find(Reference.parse(f"{stub.address}/one:1")) is None
    assert [aside.name for aside in known.damaged] == [path.with_suffix(".damaged").name]
    assert [o.word for o in one_pass(stub, repository, "one:1")] == ["present"]


@pytest.mark.slow
def test_a_look_at_how_it_stands_writes_nothing(stub: Stub, repository: Path, tmp_path: Path) -> None:
    """Not where no state is, and what is damaged is told and left for the next pass."""
    where = ("--repository", str(repository), "--state", str(tmp_path / "state"))
    assert run("status", *where).returncode == 1
    assert not (tmp_path / "state").exists()
    one_pass(stub, repository, "one:1")
    (path,) = (tmp_path / "state/images").iterdir()
    path.write_bytes(b"{")
    shown = run("status", *where)
    assert (shown.returncode, shown.stderr) == (1, f"{path}: is damaged, and the next pass puts it aside\n")
    assert path.read_bytes() == b"{"


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--wished", "--metrics-file"])
def test_a_file_that_could_not_be_written_at_the_end(stub: Stub, repository: Path, tmp_path: Path, option: str) -> None:
    """Is told at the beginning, by its name, and nothing is asked."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_bytes(_recipe(stub, "one:1"))
    for file, problem in ((tmp_path / "none/file", "is in no directory"), (tmp_path, "is a directory")):
        done = run("wishlist", str(recipe), "--repository", str(repository), option, str(file))
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: file '{file}': {problem}; ")
    assert stub.requests == []


@pytest.mark.slow
def test_the_commands(stub: Stub, repository: Path, tmp_path: Path) -> None:
    """Their status is the truth, and --wished is what `collect` may be told."""
    recipe, wished = tmp_path / "recipe.yaml", tmp_path / "wished"
    recipe.write_bytes(_recipe(stub, "one:1", "gone:1"))
    assert run("wishlist", str(recipe), "--check").returncode == 0
    where = ("--repository", str(repository), "--state", str(tmp_path / "state"), "--json")
    done = run("wishlist", str(recipe), *where, "--wished", str(wished))
    assert (done.returncode, [one["outcome"] for one in json.loads(done.stdout)]) == (1, ["published", "failed"])
    assert wished.read_text().split() == [f"{stub.address}/one:1", f"{stub.address}/gone:1"]
    assert run("status", *where).returncode == 1
    recipe.write_bytes(_recipe(stub, "one:1"))
    assert run("wishlist", str(recipe), *where).returncode == 0
    assert run("status", *where).returncode == 0
    recipe.write_text("version: 1\ninput: [x]\nz: 1\n")
    broken = run("wishlist", str(recipe), "--check")
    assert [line.partition(":")[0] for line in broken.stderr.splitlines()] == ["error", "error"]


@pytest.mark.slow
def test_what_a_recipe_asks_for_later(stub: Stub, repository: Path, tmp_path: Path) -> None:
    """Trees for Apptainer, and a store for podman, of images that are published already; then a pass costs one request
    again. Where the store cannot be made the pass is not complete."""
    recipe, store = tmp_path / "recipe.yaml", Layout(repository).podman_store
    where = ("--repository", str(repository), "--state", str(tmp_path / "state"))

    def done(ours: str, status: int = 0) -> str:
        recipe.write_bytes(_recipe(stub, "one:1") + f"cvmfs-publisher:\n  {ours}\n".encode())
        one_pass = run("wishlist", str(recipe), *where)
        assert one_pass.returncode == status, one_pass.stderr
        return one_pass.stdout

    assert done("flat: no").startswith("published ")
    assert not (repository / ".flat").exists()
    assert done("flat: yes").startswith("published ")
    assert len(list((repository / ".flat").glob("*/*"))) == 1
    (store / "overlay-layers").mkdir(parents=True)
    (store / "overlay-layers/layers.json").write_text('[{"id": "1"}]')
    assert f"failed     {repository}\n" in done("podman-store: yes", status=1)
    shutil.rmtree(store)
    done("podman-store: yes")
    assert f"{stub.address}/one:1" in (store / "overlay-images/images.json").read_text()
    stub.requests.clear()
    assert done("podman-store: yes").startswith("present ")
    assert len(stub.requests) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wishlist", "watch"])
def test_settings_with_a_mistake_end_a_command(stub: Stub, repository: Path, tmp_path: Path, name: str) -> None:
    """Before anything is asked; file and key are named."""
    recipe, settings = tmp_path / "recipe.yaml", tmp_path / "publisher.toml"
    recipe.write_bytes(_recipe(stub, "one:1"))
    settings.write_text(f'[registries."{stub.address}"]\nmirror = []\n')
    where = ("--repository", str(repository), "--state", str(tmp_path / "state"), "--registries", str(settings))
    done = run(name, str(recipe), *where)
    assert done.returncode == 1
    assert str(settings) in done.stderr
    assert "unknown field `mirror`" in done.stderr
    assert stub.requests == []


@pytest.mark.slow
def test_watch_keeps_the_last_good_recipe_and_ends(stub: Stub, repository: Path, tmp_path: Path) -> None:
    """SIGHUP starts a pass and writes what is wished for, a broken recipe is told and not used, SIGTERM ends with 0."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_bytes(_recipe(stub, "one:1"))
    arguments = ("--repository", str(repository), "--state", str(tmp_path / "state"), "--interval", "3000")
    wished = ("--wished", str(tmp_path / "wished"))
    watching = subprocess.Popen(command("watch", str(recipe), *arguments, *wished), stdout=subprocess.PIPE, text=True)
    try:
        assert watching.stdout
        assert "published" in watching.stdout.readline()
        assert watching.stdout.readline() == "1 of 1 complete\n"
        assert (tmp_path / "wished").read_text() == f"{stub.address}/one:1\n"
        recipe.write_text("version: 3\n")
        watching.send_signal(signal.SIGHUP)
        assert "the last good recipe is kept" in watching.stdout.readline()
        assert watching.stdout.readline() == "1 of 1 complete\n"
        watching.terminate()
        assert watching.wait(60) == 0
    finally:
        watching.kill()
        watching.communicate()
