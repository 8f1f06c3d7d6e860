"""Each engine works by itself, with its own overlayfs: what the other tests compare ours with."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines import busybox, debs, mounts
from tests.engines.containerd import VERSIONS, Containerd
from tests.engines.cri import Cri, parse_log
from tests.engines.process import find_processes
from tests.engines.registry import Registry
from tests.images.tarlayer import File

pytestmark = [pytest.mark.engine, pytest.mark.root]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry")) as started:
        yield started


@pytest.fixture(scope="module", params=VERSIONS)
def containerd(request: pytest.FixtureRequest, registry: Registry) -> Iterator[Containerd]:
    with Containerd(request.param, busybox.push_pause(registry)) as started:
        yield started


@pytest.fixture
def cri(containerd: Containerd) -> Iterator[Cri]:
    with Cri(containerd.socket) as client:
        yield client


def test_version_is_the_one_named(containerd: Containerd, cri: Cri) -> None:
    """The key of a generation names the engine that answers."""
    assert cri.version().lstrip("v").startswith(f"{containerd.version}.")


def test_pull_run_remove(registry: Registry, cri: Cri, tmp_path: Path) -> None:
    """An image of two layers is pulled and runs, sees both layers, and is gone after its removal."""
    image = busybox.write_busybox(tmp_path / "layout", upper=[[File("greeting", b"from the second layer\n")]])
    ref = registry.push(image.path, image.ref, "test/busybox:1")
    before = registry.mark()

    assert cri.pull(ref) == image.config
    assert sorted(registry.blob_requests(before)) == sorted([*image.layers, image.config])
    result = cri.run(ref, ["/bin/sh", "-c", "echo hello; cat /greeting; exit 3"])
    assert (result.exit_code, result.output) == (3, "hello\nfrom the second layer\n")

    cri.remove_image(ref)
    assert cri.find_image(ref) is None
    assert registry.manifest_requests(before)


def test_container_outlives_a_restart(registry: Registry, containerd: Containerd, cri: Cri, tmp_path: Path) -> None:
    """A container that runs while its engine restarts is the same one afterwards, and answers."""
    image = busybox.write_busybox(tmp_path / "layout")
    ref = registry.push(image.path, image.ref, "test/long:1")
    cri.pull(ref)
    container = cri.start(ref, ["/bin/sh", "-c", "echo up > /tmp/state; exec sleep 1000"])
    containerd.restart()
    with Cri(containerd.socket) as again:
        assert again.exit_code(container) is None
        assert again.exec(container, ["/bin/cat", "/tmp/state"]).output == "up\n"
        again.stop(container)


@pytest.mark.parametrize("version", VERSIONS)
def test_stop_leaves_nothing(registry: Registry, version: str, tmp_path: Path) -> None:
    """Stopping an engine under a running container ends the container and takes away mounts and files."""
    image = busybox.write_busybox(tmp_path / "layout")
    ref = registry.push(image.path, image.ref, "test/stop:1")
    with Containerd(version, busybox.push_pause(registry)) as started, Cri(started.socket) as client:
        client.pull(ref)
        client.start(ref, ["/bin/sleep", f"1000{os.getpid()}"])
        assert mounts.mounts_below(started.directory)
    assert not mounts.mounts_below(started.directory)
    assert not started.directory.exists()
    assert find_processes(f"1000{os.getpid()}") == []


def test_registry_tells_downloads_from_checks(registry: Registry, tmp_path: Path) -> None:
    """A push checks and uploads blobs and downloads none; a mark hides what was before it."""
    start = registry.mark()
    image = busybox.write_busybox(tmp_path / "layout")
    registry.push(image.path, image.ref, "test/pushed:1")
    assert registry.blob_requests(start) == []
    assert any(request.method in ("HEAD", "PUT") for request in registry.requests(start))
    assert registry.requests(registry.mark()) == []


def test_log_lines_are_joined() -> None:
    """A long line that the engine wrote in parts is one line again."""
    assert parse_log("t stdout P ab\nt stdout F cd\nt stderr F \nt stdout F e f\n") == "abcd\n\ne f\n"


def test_unpacking_again_does_nothing() -> None:
    """A set that is there is not fetched again, and its directory depends on the names alone, not on their order."""
    assert debs.unpack("bookworm", ["runc"]) == debs.RUNC.root()
    assert (
        debs.Packages("x", ("a", "b")).directory.name.partition("-")[2]
        == (debs.Packages("x", ("b", "a")).directory.name.partition("-")[2])
    )


def test_missing_package_says_so() -> None:
    """A name that the suite does not have is reported with the suite, the archive and the name."""
    with pytest.raises(debs.DebsError, match=r"suite 'bookworm' at .*no-such-package-anywhere"):
        debs.unpack("bookworm", ["no-such-package-anywhere"])
