"""The command `cvmfs-podmanstore`, run as a person runs it."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from cvmfsrepo.oci import Reference
from podmanstore.cli import STORE
from publisher.publishing.publish import publish_image
from publisher.source import open_source
from tests.images.ocilayout import write_image
from tests.images.tarlayer import Dir, File, Whiteout, layer_tar
from tests.podmanstore.repositories import DUCC, Shelf
from tests.publisher.publishing import AMD64, publish
from tests.publisher.stub_registry import NAME, Stub, stub_registry

pytestmark = pytest.mark.root

BASE = [Dir("d"), File("d/one", b"1")]
DELETING = [Dir("d"), Whiteout("d/one")]
MISSING = "left out: registry.example/two:1: config sha256:"


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "podmanstore.cli", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path)
    shelf.publish("one:1", BASE, DELETING)
    return shelf


def store_of(shelf: Shelf) -> Path:
    return shelf.directory / "store"


def build(shelf: Shelf, *more: object) -> subprocess.CompletedProcess[str]:
    return run("build", "--repository", shelf.root, "--store", store_of(shelf), *more)


@pytest.mark.slow
def test_build_twice(shelf: Shelf) -> None:
    """A new store says how to use it; nothing changed is said, and is no error."""
    first = build(shelf)
    assert first.returncode == 0, first.stderr
    assert "4 layers added, 1 images added (1 images, 4 layers" in first.stdout
    assert "is a new store: add it to storage.conf" in first.stderr
    second = build(shelf)
    assert (second.returncode, second.stderr) == (0, "")
    assert "nothing changed (1 images, 4 layers" in second.stdout


@pytest.mark.slow
def test_left_out_images(shelf: Shelf) -> None:
    """Each is named with its reason on stderr, each time; the status says so, and the rest is served."""
    shelf.publish("two:1", [File("x")], form=DUCC)
    for _ in range(2):
        done = build(shelf)
        assert done.returncode == 3
        assert MISSING in done.stderr
        assert "--fetch-configs" in done.stderr
        assert "1 images" in done.stdout
        assert "1 left out" in done.stdout


def test_json(shelf: Shelf) -> None:
    """One document on stdout."""
    shelf.publish("two:1", [File("x")], form=DUCC)
    done = build(shelf, "--json")
    report = json.loads(done.stdout)
    assert (report["changed"], report["new"], report["images"], report["revisions"]) == (True, True, 1, [None])
    assert report["changes"]["images_added"] == 1
    assert [out["name"] for out in report["left_out"]] == ["registry.example/two:1"]
    assert done.returncode == 3


@pytest.mark.slow
def test_fetched_configs(tmp_path: Path) -> None:
    """From the registry in the image's name, plain HTTP on the loopback; no layer is asked for."""
    shelf = Shelf(tmp_path)
    image = write_image(tmp_path / "image", [layer_tar(BASE)], "x")
    with stub_registry(image) as stub:
        _publish_as(shelf, stub, image.source)
        assert build(shelf).returncode == 3
        done = build(shelf, "--fetch-configs")
    assert done.returncode == 0, done.stderr
    assert "1 images added" in done.stdout
    assert stub.behaviour.requests == [f"/v2/{NAME}/manifests/1", f"/v2/{NAME}/blobs/{image.config}"]


@pytest.mark.slow
def test_configs_of_a_mirror(tmp_path: Path) -> None:
    """--registries says how the registry in the image's name is asked; a file with a mistake ends it at once."""
    shelf, settings = Shelf(tmp_path), tmp_path / "publisher.toml"
    image = write_image(tmp_path / "image", [layer_tar(BASE)], "x")
    with stub_registry(image) as stub:
        name = Reference.parse("registry.invalid/image:1")
        publish_image(open_source(image.source, AMD64), shelf.root, DUCC, name, reserve=0, durable=False)
        settings.write_text(f'[registries."registry.invalid"]\nmirrors = ["{stub.address}/group"]\n')
        done = build(shelf, "--fetch-configs", "--registries", str(settings))
        assert done.returncode == 0, done.stderr
    settings.write_text("mirrors = []\n")
    done = build(shelf, "--fetch-configs", "--registries", str(settings))
    assert (done.returncode, "unknown key 'mirrors'" in done.stderr) == (1, True)


@pytest.mark.slow
def test_a_tag_that_moved(tmp_path: Path) -> None:
    """The config is asked for by its digest: the image is served all the same, and nothing else is taken."""
    shelf = Shelf(tmp_path)
    old = write_image(tmp_path / "image", [layer_tar(BASE)], "old")
    new = write_image(tmp_path / "image", [layer_tar(DELETING)], "new")
    with stub_registry(new) as stub:
        _publish_as(shelf, stub, old.source)
        done = build(shelf, "--fetch-configs")
    assert done.returncode == 0, done.stderr
    (image,) = json.loads((store_of(shelf) / "overlay-images/images.json").read_bytes())
    assert image["id"] == old.config.removeprefix("sha256:")


def test_a_registry_that_is_away(shelf: Shelf) -> None:
    """The image is left out with what the registry said; the store is built."""
    shelf.publish("127.0.0.1:1/two:1", [File("x")], form=DUCC)
    done = build(shelf, "--fetch-configs")
    assert done.returncode == 3
    assert "could not be fetched: image '127.0.0.1:1/two:1'" in done.stderr
    assert "1 images added" in done.stdout


def _publish_as(shelf: Shelf, stub: Stub, source: str) -> None:
    """As DUCC would have published the stub's image, at some time."""
    name = Reference.parse(f"{stub.address}/{NAME}:1")
    publish_image(open_source(source, AMD64), shelf.root, DUCC, name, reserve=0, durable=False)


def test_only_one_image(shelf: Shelf) -> None:
    """One that is not published is said."""
    shelf.publish("registry.hub.docker.com/busybox:1", BASE)
    done = build(shelf, "--image", "busybox:1", "--image", "registry.example/absent:2")
    assert done.returncode == 3
    assert "left out: registry.example/absent:2: is not published" in done.stderr
    (image,) = json.loads((store_of(shelf) / "overlay-images/images.json").read_bytes())
    assert image["names"] == ["docker.io/library/busybox:1"]


def test_a_platform(shelf: Shelf) -> None:
    """Another than this machine's, when asked for."""
    done = build(shelf, "--platform", "linux/s390x")
    assert done.returncode == 3
    assert "is for linux/amd64, and the store for linux/s390x" in done.stderr


@pytest.mark.slow
def test_check(shelf: Shelf) -> None:
    """A good store has no defect; the defects of another are printed, and the status says so."""
    build(shelf)
    good = run("check", "--store", store_of(shelf))
    assert (good.returncode, good.stderr) == (0, "")
    assert "0 errors, 0 warnings; 1 images" in good.stdout
    next(store_of(shelf).glob("overlay/*/link")).unlink()
    bad = run("check", "--store", store_of(shelf), "--json")
    assert bad.returncode == 3
    report = json.loads(bad.stdout)
    assert report["errors"] == len(report["defects"]) > 0
    assert {"kind", "where", "problem", "remedy", "severity", "text"} == set(report["defects"][0])
    assert build(shelf, "--mend").returncode == 0
    assert run("check", "--store", store_of(shelf)).returncode == 0


@pytest.mark.slow
def test_prune(shelf: Shelf) -> None:
    """It says what it would break, and does it only when told."""
    image = shelf.publish("two:1", BASE, [File("x")])
    build(shelf)
    for path in (shelf.layout.metadata / "registry.example/two:1").iterdir():
        path.unlink()
    arguments = ("prune", "--repository", shelf.root, "--store", store_of(shelf))
    told = run(*arguments)
    assert told.returncode == 0, told.stderr
    assert "to be removed with --yes: 2 layers" in told.stdout
    assert "stop working" in told.stdout
    done = run(*arguments, "--yes")
    assert done.returncode == 0, done.stderr
    assert "removed: 2 layers" in done.stdout
    listed = (store_of(shelf) / "overlay-layers/layers.json").read_text()
    assert image.layers[0] in listed
    assert image.layers[1] not in listed


def test_config() -> None:
    """The lines for storage.conf."""
    printed = tomllib.loads(run("config", "--store", "/srv/store", "--mount", "fuse-overlayfs").stdout)
    options = printed["storage"]["options"]
    assert options["additionalimagestores"] == ["/srv/store"]
    assert options["overlay"]["mount_program"] == "/usr/bin/fuse-overlayfs"


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([], 2, "Missing option '--repository'"),
        (["--repository", "/nowhere"], 4, "error: repository '/nowhere': does not answer"),
        (["--repository", "{root}", "--image", "UPPER"], 1, "error: image reference"),
        (["--repository", "{root}", "--platform", "amd64"], 1, "is not os/architecture"),
        (["--repository", "{root}", "--mount", "nfs"], 2, "kernel"),
        (["--repository", "{root}", "--links-to", "/a", "--links-to", "/b"], 2, "give one for each"),
        (["--repository", "{root}", "--store", "/proc/store"], 1, "error: "),
    ],
)
def test_errors(shelf: Shelf, arguments: list[str], status: int, words: str) -> None:
    """One line with what to do; wrong usage is 2, a repository that is away 4."""
    store = [] if "--store" in arguments else ["--store", str(store_of(shelf))]
    done = run("build", *store, *(argument.format(root=shelf.root) for argument in arguments))
    assert done.returncode == status
    assert words in done.stderr
    assert status == 2 or len(done.stderr.splitlines()) == 1
    assert not store_of(shelf).exists()


def test_help_says_the_statuses() -> None:
    """And the default store."""
    text = run("build", "--help").stdout
    assert str(STORE) in "".join(text.split())
    assert all(word in text for word in ("Exit status", "  3  done", "  4  a repository"))
    assert "cvmfs-podmanstore" in run("--version").stdout


def test_a_terminal_shows_progress(shelf: Shelf) -> None:
    """On stderr only; stdout stays the report."""
    controller, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    arguments = command("build", "--repository", shelf.root, "--store", store_of(shelf), "--json")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=terminal, env=environment) as running:
        os.close(terminal)
        seen = b""
        try:
            while piece := os.read(controller, 4096):
                seen += piece
        except OSError:  # EIO: the other end is closed
            pass
        report = json.loads(running.stdout.read() if running.stdout else b"")
    os.close(controller)
    assert running.returncode == 0
    assert report["images"] == 1
    assert b"layers read" in seen


@pytest.mark.slow
def test_sync_ends_on_a_signal(shelf: Shelf) -> None:
    """It builds at once, again on SIGHUP, and ends with status 0."""
    arguments = command("sync", "--repository", shelf.root, "--store", store_of(shelf), "--interval", "3600")
    index = store_of(shelf) / "overlay-images/images.json"
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as running:
        try:
            _wait(index.exists)
            publish(
                write_image(shelf.directory / "new", [layer_tar([File("x")])], "registry.example/two:1"), shelf.root
            )
            _wait_for_state(store_of(shelf))
            running.send_signal(signal.SIGHUP)
            _wait(lambda: len(json.loads(index.read_bytes())) == 2)
            time.sleep(0.5)  # it tells of the build after the index is there
            running.terminate()
            _, words = running.communicate(timeout=60)
        finally:
            running.kill()
    assert running.returncode == 0, words
    assert "INFO" in words
    assert "2 images" in words


def _wait_for_state(store: Path) -> None:
    """A build ends with it."""
    _wait(lambda: (store / "state.v1").exists())
    time.sleep(0.2)


def _wait(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.02)
