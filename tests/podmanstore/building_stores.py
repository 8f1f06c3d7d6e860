"""Builds of stores from held images, without a repository."""

from collections.abc import Sequence
from pathlib import Path

from podmanstore.apply import Changes, apply
from podmanstore.lockfiles import building
from podmanstore.plan import plan
from podmanstore.records import read_layers
from podmanstore.values import HeldImage
from tests.podmanstore.holding import chain


def build(store: Path, images: Sequence[HeldImage], mend: bool = False) -> Changes:
    with building(store):
        return apply(store, plan(images, read_layers(store)), mend)


def names(images: Sequence[HeldImage]) -> dict[str, list[str]]:
    """What `read_store` should say of images."""
    return {",".join(sorted(each.names)): chain(*each.layers) for each in images}


def directories_of(images: Sequence[HeldImage]) -> set[str]:
    """What is in `overlay/` of a store of these images alone."""
    return {"l", *(entry.id for entry in plan(images).entries)}


def shims_below(images: Sequence[HeldImage]) -> set[str]:
    """Ids of their entries that no index lists."""
    made = plan(images)
    return {entry.id for entry in made.entries} - {record.id for record in made.layers}
