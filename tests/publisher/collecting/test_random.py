"""Random repositories, withdrawals, leases and damage: what may go goes, and nothing else ever does."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError
from tests.examples import examples
from tests.images.ocilayout import Image
from tests.publisher.collecting.shelves import DAY, DUCC, Shelf
from tests.publisher.publishing import state

pytestmark = pytest.mark.root

TEXTS = ("a", "b", "c", "d")


@dataclass(frozen=True)
class Made:
    """One image of a random repository, and what becomes of it."""

    layers: Sequence[str]
    ducc: bool
    flat: bool
    removed: bool


IMAGES = st.lists(
    st.builds(
        Made,
        st.lists(st.sampled_from(TEXTS), min_size=1, max_size=3, unique=True),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    min_size=1,
    max_size=5,
)


def filled(shelf: Shelf, made: Sequence[Made]) -> list[Image]:
    return [
        shelf.publish(f"image:{number}", *one.layers, form=DUCC, flat=False)
        if one.ducc
        else shelf.publish(f"image:{number}", *one.layers, flat=one.flat)
        for number, one in enumerate(made)
    ]


@settings(max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(IMAGES, st.sets(st.sampled_from(TEXTS)), st.booleans(), st.integers(1, 3))
def test_only_what_may_go_goes(made: Sequence[Made], leased: set[str], by_diff_id: bool, at_once: int) -> None:
    """Layers, trees and documents of published images and those under a lease stay; all else goes after its grace."""
    with tempfile.TemporaryDirectory() as directory:
        shelf = Shelf(Path(directory))
        images = filled(shelf, made)
        layers = {text: n for one, image in zip(made, images, strict=True) for text, n in _named(one, image, False)}
        names = {text: n for one, image in zip(made, images, strict=True) for text, n in _named(one, image, by_diff_id)}
        trees = {image.config for image in images if shelf.layout.flat(Digest.parse(image.config)).is_dir()}
        gone = [image for one, image in zip(made, images, strict=True) if one.removed]
        if gone:
            shelf.remove(*gone)
        leases = {names[text]: "n1" for text in leased if text in names}
        shelf.collect(leases=leases, at_once=at_once)
        shelf.now += 8 * DAY
        shelf.collect(leases=leases, at_once=at_once)
        wanted = {text for one in made if not one.removed for text in one.layers} | (leased & set(layers))
        for text, digest in layers.items():
            assert shelf.layout.layer(digest).is_dir() == (text in wanted), text
        configs = {image.config for one, image in zip(made, images, strict=True) if not one.removed}
        for one, image in zip(made, images, strict=True):
            held = image.config in trees and (image.config in configs or set(one.layers) <= leased)
            assert shelf.layout.flat(Digest.parse(image.config)).is_dir() == held
            if not one.removed:
                assert shelf.manifest(image).is_file()
                assert shelf.layout.blob(Digest.parse(image.config)).is_file() or one.ducc


def _named(one: Made, image: Image, by_diff_id: bool) -> list[tuple[str, Digest]]:
    digests = image.diff_ids if by_diff_id else image.layers
    return list(zip(one.layers, map(Digest.parse, digests), strict=True))


@settings(max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(IMAGES, st.data())
def test_damage_of_any_manifest_stops_all(made: Sequence[Made], data: st.DataObject) -> None:
    """Cut off anywhere, replaced by other JSON or by a directory: nothing is removed and nothing noted."""
    with tempfile.TemporaryDirectory() as directory:
        shelf = Shelf(Path(directory))
        images = filled(shelf, made)
        bad = shelf.publish("bad:1", "b", "e")
        gone = [image for one, image in zip(made, images, strict=True) if one.removed]
        if gone:
            shelf.remove(*gone)
        victim = shelf.manifest(data.draw(st.sampled_from([bad, *(i for i in images if i not in gone)])))
        content = victim.read_bytes()
        cut = data.draw(st.integers(0, len(content) - 1))
        victim.write_bytes(data.draw(st.sampled_from([content[:cut], b"[]", b"{}", b"\xff"])))
        before = state(shelf.directory)
        with pytest.raises(ContractError):
            shelf.collect(grace=0)
        assert state(shelf.directory) == before
