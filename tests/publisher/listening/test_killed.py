"""kill -9, SIGTERM and rivals at each step between a push and its publication: the next start finishes what is left."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Reference
from publisher.listening.queue import Queue
from publisher.transactions.lock import held
from tests.images.tarlayer import File, layer_tar
from tests.publisher.listening.bodies import harbor, post
from tests.publisher.listening.listener import Listener
from tests.publisher.publishing import make_image, run
from tests.publisher.stub_registry import NAME, Stub, stub_registry

pytestmark = [pytest.mark.root, pytest.mark.slow]

HELD_AFTER = 2000
"""Bytes: more than a config has, less than the layer."""


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Stub]:
    """One whose blobs can be held in the middle, and then be had from there on."""
    with stub_registry(make_image(tmp_path / "image", layer_tar([File("f", b"x" * 5000)]), compression="none")) as stub:
        stub.behaviour.ranges = True
        yield stub


@pytest.fixture
def listener(registry: Stub, tmp_path: Path) -> Iterator[Listener]:
    with Listener(tmp_path, f"http://{registry.address}/*") as started:
        yield started


def image_of(registry: Stub) -> str:
    return f"{registry.address}/{NAME}:1"


def push(listener: Listener, registry: Stub) -> None:
    assert post(listener.address, harbor(image_of(registry))).status == 202


def release(registry: Stub) -> None:
    registry.behaviour.hold_after = None
    registry.behaviour.released.set()


def shows(listener: Listener, registry: Stub) -> bool:
    return Layout(listener.repository).manifest_json(Reference.parse(image_of(registry))).is_file()


def test_killed_between_accepting_and_publishing(listener: Listener, registry: Stub) -> None:
    """The image waits for another publisher; the next listener publishes it."""
    state = listener.repository / ".cvmfs-publisher"
    state.mkdir()
    with held(state / "lock", "rival"):
        push(listener, registry)
        listener.kill()
        assert [job.reference for job in listener.jobs()] == [image_of(registry)]
    listener.start()
    listener.wait_for("published")
    listener.settle()
    assert shows(listener, registry)


def test_killed_while_it_publishes(listener: Listener, registry: Stub) -> None:
    """Nothing of the image is seen; the next listener begins anew, and leaves nothing of the first attempt."""
    registry.behaviour.hold_after = HELD_AFTER
    push(listener, registry)
    assert registry.behaviour.held.wait(60)
    listener.kill()
    assert not shows(listener, registry)
    assert len(listener.jobs()) == 1
    release(registry)
    listener.start()
    listener.wait_for("published")
    listener.settle()
    assert shows(listener, registry)
    assert [*(listener.repository / ".cvmfs-publisher").glob("staging/*")] == []


def test_killed_between_publishing_and_forgetting(listener: Listener, registry: Stub) -> None:
    """The job is done once more, which finds nothing to do."""
    push(listener, registry)
    listener.wait_for("published")
    listener.settle()
    listener.kill()
    with Queue.opened(listener.queue) as queue:
        queue.put(image_of(registry), 1)
        queue.take()
    listener.start()
    listener.wait_for("unchanged")
    listener.settle()


def test_sigterm_ends_after_the_image(listener: Listener, registry: Stub) -> None:
    """That one is complete, and what else waits is still there."""
    registry.behaviour.hold_after = HELD_AFTER
    push(listener, registry)
    assert registry.behaviour.held.wait(60)
    other = f"{registry.address}/other:1"
    assert post(listener.address, harbor(other)).status == 202
    process_ends = listener.end_later()
    release(registry)
    assert process_ends() == 0
    assert shows(listener, registry)
    assert [job.reference for job in listener.jobs()] == [other]


def test_pushed_again_while_it_is_worked_on(listener: Listener, registry: Stub) -> None:
    """It is done once more when the first attempt has ended."""
    registry.behaviour.hold_after = HELD_AFTER
    push(listener, registry)
    assert registry.behaviour.held.wait(60)
    push(listener, registry)
    push(listener, registry)
    release(registry)
    listener.wait_for("published")
    listener.wait_for("unchanged")
    listener.settle()


def test_two_publishers_at_once(listener: Listener, registry: Stub, tmp_path: Path) -> None:
    """One says who has the repository, another waits; in the end all images are there."""
    registry.behaviour.hold_after = HELD_AFTER
    push(listener, registry)
    assert registry.behaviour.held.wait(60)
    image = make_image(tmp_path / "second", layer_tar([File("g", b"y")]))
    command = ("image", image.source, "--repository", str(listener.repository))
    refused = run(*command)
    assert refused.returncode == 1
    assert f"is being published to by another publisher, process {listener.pid}" in refused.stderr
    (tmp_path / "rival").mkdir()
    with stub_registry(make_image(tmp_path / "third", layer_tar([File("h", b"z")]))) as other:
        rival = Listener(tmp_path / "rival", f"http://{other.address}/*")
        (tmp_path / "rival/repository").symlink_to(listener.repository)
        with rival:
            push(rival, other)
            assert len(rival.jobs()) == 1
            release(registry)
            rival.wait_for("published")
            assert shows(rival, other)
    listener.wait_for("published")
    assert run(*command).returncode == 0
    assert shows(listener, registry)
    assert Layout(listener.repository).manifest_json(Reference.parse(image.ref)).is_file()
