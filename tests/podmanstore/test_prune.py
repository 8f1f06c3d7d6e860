"""The one removal of layers: what goes, what stays, what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cvmfsrepo.errors import FailedPrecondition
from podmanstore.plan import plan
from podmanstore.prune import prune
from tests.podmanstore.building_stores import build, directories_of, names, shims_below
from tests.podmanstore.holding import (
    contents,
    read_index,
    read_store,
    three_images,
)
from tests.podmanstore.killing import kills


def test_prune(store: Path) -> None:
    """Removes the layers that no image needs, with all that only they stood on, and says what that breaks."""
    build(store, three_images())
    build(store, three_images()[:1])
    wanted = plan(three_images()[:1])
    before = contents(store)
    said = prune(store, {record.id for record in wanted.layers}, dry_run=True)
    assert contents(store) == before
    assert prune(store, {record.id for record in wanted.layers}) == said
    assert str(said).startswith(
        "4 layers, 4 directories: users' own images and containers that stand on one of them stop"
    )
    assert (store / "overlay-layers" / "layers.json").read_bytes() == wanted.layers_json
    assert {path.name for path in (store / "overlay").iterdir()} == directories_of(three_images()[:1])
    assert read_store(store) == names(three_images()[:1])
    assert not prune(store, {record.id for record in wanted.layers}).layers
    assert not build(store, three_images()[:1])
    fresh = store.parent / "fresh"
    build(fresh, three_images()[:1])
    assert contents(fresh) == contents(store)


def test_prune_of_what_an_image_needs(store: Path) -> None:
    """Is refused: the image has to leave the store before."""
    build(store, three_images())
    before = contents(store)
    with pytest.raises(FailedPrecondition, match="is not wanted; build first, then prune"):
        prune(store, {record.id for record in plan(three_images()[:1]).layers})
    assert contents(store) == before


def test_prune_keeps_what_is_wanted_stands_on(store: Path) -> None:
    """Parents, the layers below shims, and deletions, though nobody asked for them."""
    build(store, three_images()[:1])
    ids = {record["layer"] for record in read_index(store, "images")}
    prune(store, ids)
    assert read_store(store) == names(three_images()[:1])


@pytest.mark.slow
def test_a_prune_that_dies(store: Path, killing: Callable[[int], None]) -> None:
    """At any step: the images that stay are whole, and the next build or prune completes it."""
    wanted = {record.id for record in plan(three_images()[:1]).layers}
    build(store, three_images())
    build(store, three_images()[:1])
    for number in kills(killing, lambda: prune(store, wanted)):
        assert read_store(store) == names(three_images()[:1]), f"step {number}"
        if number % 2:
            build(store, three_images()[:1])
            listed = {record["id"] for record in read_index(store, "layers")}
            there = {path.name for path in (store / "overlay").iterdir()}
            assert there - listed <= {"l"} | shims_below(three_images())
        else:
            prune(store, wanted)
        build(store, three_images())
        build(store, three_images()[:1])
