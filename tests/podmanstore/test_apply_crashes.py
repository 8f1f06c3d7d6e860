"""What a build leaves that dies or finds no space, and what the next one makes of it."""

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cvmfsrepo.errors import ResourceExhausted
from podmanstore.apply import BUILDING
from podmanstore.values import HeldImage
from tests import mounting
from tests.podmanstore.building_stores import build, directories_of, names
from tests.podmanstore.holding import (
    contents,
    image,
    layer,
    read_index,
    read_store,
    shim,
    three_images,
)
from tests.podmanstore.killing import kills

SHIMMED = [image("a", layer("base"), layer("two"))]
CRASHES: dict[str, tuple[Sequence[HeldImage], Sequence[HeldImage]]] = {
    "the first build": ([], three_images()),
    "images added": (three_images()[:1], three_images()),
    "an image removed": (three_images(), three_images()[1:]),
    "a layer elsewhere": (three_images("/one")[:2], three_images("/other")[:2]),
    "other shims": (SHIMMED, [image("a", layer("base", white=shim(b"x")), layer("two"))]),
    "another manifest": (SHIMMED, [image("a", layer("base"), layer("two"), manifest=b"other")]),
}


@pytest.mark.slow
@pytest.mark.parametrize("crash", CRASHES)
def test_a_build_that_dies(tmp_path: Path, killing: Callable[[int], None], crash: str) -> None:
    """At any step: readers find the images of before or after, each whole; the next build completes it, to the same
    bytes as one that was never disturbed."""
    before, after = CRASHES[crash]
    undisturbed = tmp_path / "undisturbed"
    for images in (before, after):
        build(undisturbed, images)
    count = 0
    store = tmp_path / "0"
    build(store, before)
    for number in kills(killing, lambda: build(store, after)):  # noqa: B023 - called before the next one
        found = read_store(store)
        assert found in (names(before), names(after)), f"step {number}"
        build(store, after)
        assert contents(store) == contents(undisturbed), f"step {number}"
        count += 1
        store = tmp_path / str(count)
        build(store, before)
    assert count > 10


@pytest.mark.slow
def test_what_a_dead_build_placed_for_an_image_that_is_gone(store: Path, killing: Callable[[int], None]) -> None:
    """Is removed by the next build: podman does not pull a layer whose directory it finds without a record."""
    build(store, three_images()[:1])
    left = []
    for number in kills(killing, lambda: build(store, three_images())):
        left.append(len(os.listdir(store / "overlay")))
        if len(read_index(store, "layers")) > 6:
            break
        build(store, three_images()[:1])
        assert {path.name for path in (store / "overlay").iterdir()} == directories_of(three_images()[:1]), (
            f"step {number}"
        )
        assert not (store / BUILDING).exists()
    assert max(left) > min(left)


@pytest.mark.root
@pytest.mark.parametrize("option", ["size=300k", "nr_inodes=120"])
def test_a_full_disk(tmp_path: Path, option: str) -> None:
    """Is said, with what to do; the store is as it was, nothing half made takes space, and the build works later."""
    store, first = tmp_path / "disk" / "store", three_images()
    many = [
        image(f"image {n}", *(layer(f"{n} {m}") for m in range(5)), config="x" * 10_000 + str(n)) for n in range(20)
    ]
    with mounting.mounted("tmpfs", "tmpfs", tmp_path / "disk", [option]):
        build(store, first)
        before = contents(store)
        for _ in range(2):
            with pytest.raises(ResourceExhausted, match="make space or inodes there and build again"):
                build(store, [*first, *many])
            assert contents(store) == before
        assert not build(store, first)
        remount(tmp_path / "disk", "size=100m,nr_inodes=10000")
        build(store, [*first, *many])
        assert read_store(store) == names([*first, *many])


def remount(directory: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(directory)], check=True)
