"""Planned stacks as the kernel mounts them."""

from pathlib import Path

import pytest

from podmanstore.values import HeldImage
from tests import mounting
from tests.podmanstore.building_stores import build
from tests.podmanstore.holding import (
    CATALOG,
    chain,
    image,
    layer,
    shim,
    stack,
)


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    """Layers as a repository has them, raw: markers and all."""
    root = tmp_path / "layers"
    for name, files in {
        "base": ["a", "d/x", "d/y"],
        "two": ["d/.wh.x", "e"],
        "three": ["f", "d/z"],
        "empty": [],
    }.items():
        for file in (*files, *([] if name == "three" else [".cvmfscatalog"])):
            (root / name / file).parent.mkdir(parents=True, exist_ok=True)
            (root / name / file).write_text(name)
    return root


RAW = {
    "base": CATALOG,
    "two": shim(b".cvmfscatalog", b"d/.wh.x"),
    "three": None,
    "empty": CATALOG,
}


def stacked(root: Path, *stack_of_names: str) -> HeldImage:
    """An image of the raw layers, surrounded as the kernel wants it."""
    whites = {"two": shim(b"d/x")}
    held = [layer(name, root, RAW[name], white=whites.get(name)) for name in stack_of_names]
    return image("-".join(stack_of_names), *held)


STACKS = {
    ("base",): {"a", "d", "d/x", "d/y"},
    ("base", "two"): {"a", "d", "d/y", "e"},
    ("two", "base"): {"a", "d", "d/x", "d/y", "e"},
    ("base", "two", "three"): {"a", "d", "d/y", "d/z", "e", "f"},
    ("base", "two", "base"): {"a", "d", "d/x", "d/y", "e"},
    ("base", "two", "base", "two"): {"a", "d", "d/y", "e"},
    ("empty", "base", "empty", "two", "empty"): {"a", "d", "d/y", "e"},
    ("three", "three"): {"d", "d/z", "f"},
    ("three",): {"d", "d/z", "f"},
    ("base", "three", "two", "three"): {"a", "d", "d/y", "d/z", "e", "f"},
}


@pytest.mark.root
def test_the_kernel_shows_what_a_pull_would(store: Path, layers: Path, tmp_path: Path) -> None:
    """Deletions, hidden markers, layers under different parents, layers and empty layers that repeat: overlayfs takes
    each stack, with every directory once."""
    images = [stacked(layers, *stack_of_names) for stack_of_names in STACKS]
    build(store, images)
    for number, (each, wanted) in enumerate(zip(images, STACKS.values(), strict=True)):
        assert container(store, chain(*each.layers)[-1], tmp_path / f"mount {number}") == wanted, each.names


def container(store: Path, identity: str, place: Path) -> set[str]:
    """What a new container on a layer shows: it has an upper directory of its own."""
    for name in ("upper", "work", "merged"):
        (place / name).mkdir(parents=True)
    with mounting.overlay(stack(store, identity), place / "merged", place / "upper", place / "work") as root:
        return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.mark.slow
@pytest.mark.root
def test_a_hundred_layers(short_path: Path) -> None:
    """Are mounted in the one page of options that podman 4 has, from a store with a short path."""
    root, store = short_path / "layers", short_path
    for number in range(100):
        (root / str(number)).mkdir(parents=True)
        (root / str(number) / f"file {number}").touch()
        (root / str(number) / ".cvmfscatalog").touch()
    images = [image("deep", *(layer(str(number), root) for number in range(100)))]
    build(store, images)
    identity = chain(*images[0].layers)[-1]
    assert len(stack(store, identity)) == 101
    assert container(store, identity, short_path / "mount") == {f"file {number}" for number in range(100)}
