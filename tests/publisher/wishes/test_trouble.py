"""What a pass makes of a repository that cannot be published to, and of what changes while it publishes."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import Unavailable
from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Reference
from publisher.listening.queue import Queue
from publisher.listening.webhooks import Allowed
from publisher.listening.worker import ImagePublisher, Worker
from publisher.publishing.form import Form, Terms
from publisher.registry.registries import Registries
from publisher.transactions.directory import DirectoryTarget
from publisher.wishes.recipe import parse_recipe
from publisher.wishes.run import Outcome, Pass
from publisher.wishes.state import StateDirectory
from tests.images.ocilayout import Image
from tests.images.tarlayer import File, layer_tar
from tests.publisher.publishing import AMD64, make_image, make_repository, publish
from tests.publisher.wishes.stub import Stub, running

pytestmark = pytest.mark.root

NAMES = ("a:1", "b:1", "c:1")


@dataclass(frozen=True, slots=True)
class Scene:
    """A registry with three images, and an empty repository."""

    directory: Path
    stub: Stub

    @property
    def repository(self) -> Path:
        return self.directory / "repository"

    @property
    def target(self) -> DirectoryTarget:
        return DirectoryTarget.at(self.repository, durable=False)

    @property
    def known(self) -> StateDirectory:
        return StateDirectory.at(self.directory / "state")

    def reference(self, name: str) -> Reference:
        return Reference.parse(f"{self.stub.address}/{name}")

    def one_pass(self, patient: bool = True, terms: Terms | None = None) -> list[Outcome]:
        wishes = "".join(f" - 'http://{self.stub.address}/{name}'\n" for name in NAMES)
        recipe = parse_recipe(f"version: 1\ninput:\n{wishes}".encode(), "r")
        return list(Pass(self.target, Registries(), self.known, terms or Terms(), patient=patient).run(recipe))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    images = {name: image_of(tmp_path, name) for name in NAMES}
    make_repository(tmp_path / "repository")
    with running(Stub(images=images)) as stub:
        yield Scene(tmp_path, stub)


def image_of(directory: Path, text: str) -> Image:
    return make_image(directory / f"image of {text}".replace(":", "-"), layer_tar([File("f", text.encode())]))


def test_a_repository_that_another_publisher_has(scene: Scene) -> None:
    """Ends the pass: no other image is tried, and none waits longer for it the next time."""
    with scene.target.begin():
        first, *others = scene.one_pass()
        assert first.word == "failed"
        assert [one.word for one in others] == ["stopped", "stopped"]
        assert all("another publisher" in one.reason for one in (first, *others))
    assert [one.word for one in scene.one_pass()] == ["published"] * 3


def test_no_image_stands_before_the_others_for_ever(scene: Scene) -> None:
    """What ended a pass is tried last by the next one: it may be the image with which no publication succeeds."""
    with scene.target.begin():
        ended = [[one.name for one in scene.one_pass() if one.word == "failed"] for _ in NAMES]
    assert ended == [[str(scene.reference(name))] for name in NAMES]


def test_a_busy_repository_and_the_queue(scene: Scene) -> None:
    """The attempt does not count, whatever their number: the image is tried again a minute later."""
    allowed = Allowed.parse([f"http://{scene.stub.address}/*:*"])
    publisher = ImagePublisher(scene.target, Registries, [AMD64])
    with Queue.opened(scene.directory / "queue") as queue:
        queue.put(str(scene.reference("a:1")), time.time())
        worker = Worker(queue, allowed, publisher.publish, lambda line: None)
        with scene.target.begin():
            assert worker.work_off() == 1
        (job,) = queue.jobs()
        assert (job.attempts, job.given_up) == (0, False)
        assert "another publisher" in job.reason
        assert 0 < job.retry_at - time.time() <= 60
        (again,) = queue.take(now=job.retry_at)
        assert publisher.publish([Reference.parse(again.reference)])
    assert Layout(scene.repository).manifest_json(scene.reference("a:1")).is_file()


def test_put_off_for_days(scene: Scene) -> None:
    """It is never given up for it."""
    with Queue.opened(scene.directory / "queue") as queue:
        now = time.time()
        queue.put("registry.example/a:1", now)
        for _ in range(100):
            (job,) = queue.take(now=now)
            job = queue.put_off(job, Unavailable("repository", "r", "is busy", "wait"), now)
            now = job.retry_at
        assert (job.given_up, job.attempts) == (False, 0)


def test_a_tag_that_moves_while_it_is_published(scene: Scene) -> None:
    """What the pass found is published as a whole, and what the tag means by then with the next pass."""
    before, after = scene.stub.images["a:1"], image_of(scene.directory, "later")

    class Moving(Registries):
        def find_digest(self, reference: Reference) -> Digest:
            found = super().find_digest(reference)
            scene.stub.images["a:1"] = after
            scene.stub.images["a:old"] = before
            return found

    wish = parse_recipe(f"version: 1\ninput:\n - 'http://{scene.stub.address}/a:1'\n".encode(), "r")
    for registry, image in ((Moving(), before), (Registries(), after)):
        (outcome,) = Pass(scene.target, registry, scene.known).run(wish)
        assert outcome.word == "published"
        blob = Layout(scene.repository).blob(Digest.parse(image.config))
        assert blob.is_file()


def test_an_image_without_its_flat_tree(scene: Scene) -> None:
    """Is published for nodes, and not complete: the layer that DUCC left has no record to make a tree of."""
    publish(scene.stub.images["a:1"], scene.repository, Form(record=False))
    first, *others = scene.one_pass(terms=Terms(flat=True))
    assert first.word == "failed"
    assert "record" in first.reason
    assert [one.word for one in others] == ["published"] * 2
    assert Layout(scene.repository).manifest_json(scene.reference("a:1")).is_file()
