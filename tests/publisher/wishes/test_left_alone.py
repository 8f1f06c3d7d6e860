"""A registry that asks to be left alone is left alone, by this pass and by the next; the images of others go on."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmfsrepo.oci import Reference
from publisher.listening.worker import ImagePublisher
from publisher.registry.registries import Registries
from publisher.transactions.directory import DirectoryTarget
from publisher.wishes.recipe import parse_recipe
from publisher.wishes.run import Outcome, Pass
from publisher.wishes.state import StateDirectory
from tests.images.ocilayout import Image
from tests.images.tarlayer import File, layer_tar
from tests.publisher.publishing import AMD64, make_image, make_repository
from tests.publisher.wishes.stub import Stub, running

pytestmark = pytest.mark.root

MANY = 30


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return make_image(tmp_path / "image", layer_tar([File("f", b"content")]))


@pytest.fixture
def busy(image: Image) -> Iterator[Stub]:
    """Answers 429 to everything, with Retry-After, until its `statuses` are cleared."""
    with running(Stub(images={f"many:{n}": image for n in range(MANY)}, statuses={"/v2/": 429})) as served:
        yield served


@pytest.fixture
def calm(image: Image) -> Iterator[Stub]:
    with running(Stub(images={"one:1": image})) as served:
        yield served


def one_pass(root: Path, *wishes: str) -> list[Outcome]:
    """A pass of a process of its own, as far as it is seen: only the state directory and the repository are shared."""
    recipe = parse_recipe(("version: 1\ninput:\n" + "".join(f" - 'http://{w}'\n" for w in wishes)).encode(), "r")
    target, known = DirectoryTarget.at(root / "repository", durable=False), StateDirectory.at(root / "state")
    with Registries(known=known) as registries:
        return list(Pass(target, registries, known).run(recipe))


def wishes_of(busy: Stub) -> list[str]:
    return [f"{busy.address}/many:{n}" for n in range(MANY)]


def test_the_rest_of_a_pass_is_not_asked_for(busy: Stub, calm: Stub, tmp_path: Path) -> None:
    """At most those that were asked for side by side; each image has the reason, and the other registry's is there."""
    make_repository(tmp_path / "repository")
    *failed, published = one_pass(tmp_path, *wishes_of(busy), f"{calm.address}/one:1")
    assert published.word == "published"
    assert {one.word for one in failed} == {"failed"}
    assert {f"{busy.address} asks to wait until" in one.reason for one in failed} == {True}
    assert 1 <= len(busy.requests) <= 8


def test_the_next_pass_keeps_to_it(busy: Stub, calm: Stub, tmp_path: Path) -> None:
    """Also for images that are new in the list; when the time is over all are asked for."""
    make_repository(tmp_path / "repository")
    one_pass(tmp_path, *wishes_of(busy)[:1])
    busy.statuses.clear()
    busy.requests.clear()
    *failed, published = one_pass(tmp_path, *wishes_of(busy), f"{calm.address}/one:1")
    assert ({one.word for one in failed}, published.word) == ({"failed"}, "published")
    assert busy.requests == []
    known = StateDirectory.at(tmp_path / "state")
    (until,) = known.left_alone().values()
    image = known.find(Reference.parse(wishes_of(busy)[0]))
    assert image
    assert image.retry_at >= until - 1
    known.write_left_alone({busy.address: 1.0})
    assert {one.word for one in one_pass(tmp_path, *wishes_of(busy)[:2])} == {"published"}
    assert known.left_alone() == {}


def test_the_next_image_that_was_pushed(busy: Stub, calm: Stub, tmp_path: Path) -> None:
    """`listen` keeps to it too, whatever waits in its queue."""
    make_repository(tmp_path / "repository")
    publisher = ImagePublisher(DirectoryTarget.at(tmp_path / "repository", durable=False), Registries, [AMD64])
    found = [publisher.publish([Reference.parse(wish)]) for wish in wishes_of(busy)[:3]]
    assert {"asks to wait until" in str(one) for answers in found for one in answers.values()} == {True}
    assert len(busy.requests) == 1
    wish = Reference.parse(f"{calm.address}/one:1")
    assert isinstance(publisher.publish([wish])[wish], tuple)


def test_a_list_that_is_not_to_be_had(busy: Stub, calm: Stub, tmp_path: Path) -> None:
    """A pattern fails as an image does, and what it stands for is not asked for."""
    make_repository(tmp_path / "repository")
    published, failed = one_pass(tmp_path, f"{busy.address}/m*", f"{calm.address}/one:1")
    assert (published.word, failed.word) == ("published", "failed")
    assert "asks to wait until" in failed.reason
    assert len(busy.requests) == 1


def test_a_clock_that_jumped(calm: Stub, tmp_path: Path) -> None:
    """An hour is the most that is believed of what an earlier pass noted."""
    with Registries() as registries:
        registries.leave_alone({calm.address: 9e9})
        (until,) = registries.left_alone().values()
    assert until < time.time() + 2 * 3600


def test_state_that_is_damaged(tmp_path: Path) -> None:
    """It is put aside, and every registry is asked."""
    known = StateDirectory.at(tmp_path / "state")
    (known.root / "registries.json").write_bytes(b'{"x": "y"}')
    assert known.left_alone() == {}
    assert [path.name for path in known.damaged] == ["registries.damaged"]


def test_a_catalogue_with_a_repository_that_is_gone(calm: Stub, tmp_path: Path) -> None:
    """Registries list what has lost its last tag; the others are published."""
    make_repository(tmp_path / "repository")
    calm.images["two:1"] = calm.images["one:1"]
    calm.statuses["/v2/two/tags/list"] = 404
    assert [one.word for one in one_pass(tmp_path, f"{calm.address}/*")] == ["published"]
