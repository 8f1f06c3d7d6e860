"""What a build reads of an image that an earlier one has read."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from podmanstore.configs import Cache
from podmanstore.reading import KeptImage, Read, key_of, read_image
from podmanstore.values import LeftOut
from tests.images.tarlayer import File
from tests.podmanstore.repositories import DUCC, Shelf, reference

IMAGE = reference("base:1")
SETTLED = 2_100_000_000
"""Nanoseconds after which a file's times tell whether it was written anew."""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """One image."""
    shelf = Shelf(tmp_path_factory.mktemp("reading"))
    shelf.publish("base:1", [File("one", b"1")])
    return shelf


@contextmanager
def later() -> Iterator[None]:
    """The clock is ahead by the time that a file takes to settle."""
    now = time.time_ns
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: now() + SETTLED)
        yield


def read(shelf: Shelf, known: dict[str, KeptImage] | None) -> Read:
    found = read_image(shelf.place().repository, Cache(shelf.directory / "configs"), known, IMAGE)
    assert isinstance(found, Read)
    return found


def remembered(shelf: Shelf) -> dict[str, KeptImage]:
    with later():
        kept = read(shelf, {}).kept
    assert kept is not None
    return {key_of(shelf.place().repository, IMAGE): kept}


def test_it_is_the_same_image(shelf: Shelf) -> None:
    """Read or remembered."""
    with later():
        assert read(shelf, remembered(shelf)) == read(shelf, {})


def test_its_blobs_are_not_read_again(shelf: Shelf) -> None:
    """They never change under their digests, and each was verified when it was read."""
    known, image = remembered(shelf), read(shelf, None).image
    blob = shelf.layout.blob(Digest.parse(str(image.manifest.config.digest)))
    content = blob.read_bytes()
    blob.write_bytes(b"damaged")
    try:
        with later():
            assert read(shelf, known).documents is not None
        assert isinstance(read_image(shelf.place().repository, shelf.cache, None, IMAGE), LeftOut)
    finally:
        blob.write_bytes(content)


def test_nothing_is_remembered_where_nothing_is_known(shelf: Shelf) -> None:
    """A repository that has a revision needs no memory of single images."""
    assert read(shelf, None).kept is None


def test_an_image_that_was_published_anew(tmp_path: Path) -> None:
    """Is read again, whatever is remembered; and not remembered before its times can tell."""
    shelf = Shelf(tmp_path)
    shelf.publish("base:1", [File("one", b"1")])
    assert read(shelf, {}).kept is None
    known = remembered(shelf)
    shelf.publish("base:1", [File("two", b"2")])
    again = read(shelf, known)
    assert again.kept is None
    assert again == read(shelf, None)
    with later():
        assert read(shelf, known).image == again.image


def test_what_ducc_has_published(tmp_path: Path) -> None:
    """Is never remembered: its manifest was made from what DUCC kept, and may be fetched one day."""
    shelf = Shelf(tmp_path)
    shelf.publish("base:1", [File("one", b"1")], form=DUCC)
    with later():
        assert read(shelf, {}).kept is None
