"""The whole tree of an image, made from records and layers, against the oracle that is proved equal to a pull."""

import functools
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings

from cvmfsrepo.compare import scan
from publisher.flat.write import Sharing
from tests.examples import examples
from tests.images import nasty
from tests.images.ocilayout import Image
from tests.images.stack import Layers
from tests.images.strategies import stacks
from tests.images.tarlayer import layer_tar
from tests.publisher.flat.trees import Shelf, differences, oracle_tree

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("shelf"))


Truth = tuple[Image, Path, frozenset[bytes]]


@pytest.fixture(scope="module")
def published(shelf: Shelf) -> Callable[[str], Truth]:
    """A nasty image by its name, published; and what the oracle makes of it."""

    @functools.cache
    def published(name: str) -> Truth:
        tars = nasty.ALL[name].tars()
        return shelf.add(tars), *oracle_tree(tars, shelf.directory / f"truth-{name}")

    return published


@pytest.mark.parametrize("sharing", Sharing)
@pytest.mark.parametrize("name", sorted(nasty.ALL))
def test_every_nasty_image_is_what_the_specification_says(
    name: str, sharing: Sharing, shelf: Shelf, published: Callable[[str], Truth], tmp_path: Path
) -> None:
    """Every name, attribute, hard link and byte, whether files are copied or linked."""
    image, expected, undated = published(name)
    found = shelf.write(shelf.tree(image), tmp_path / "flat", sharing=sharing)
    assert differences(expected, found, undated) == []
    assert not [path for path in scan(found) if os.path.basename(path).startswith(b".wh.")]


@pytest.mark.slow
def test_random_images_and_the_way_from_one_to_another(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each of two random images is made right from nothing, and right from a copy of the other."""
    shelf = Shelf(tmp_path_factory.mktemp("random"))

    @settings(max_examples=examples(80))
    @given(first=stacks(), second=stacks(), shared=stacks())
    def check(first: Layers, second: Layers, shared: Layers) -> None:
        with tempfile.TemporaryDirectory(prefix="flat-", dir=shelf.directory) as name:
            directory = Path(name)
            below = [layer_tar(entries) for entries in shared[:2]]
            one, other = ([*below, *(layer_tar(entries) for entries in layers)] for layers in (first, second))
            base, wanted = shelf.tree(shelf.add(one)), shelf.tree(shelf.add(other))
            expected, undated = oracle_tree(other, directory / "truth")
            made = shelf.write(wanted, directory / "made")
            assert differences(expected, made, undated) == []
            copied = shelf.write(base, directory / "copied")
            assert differences(made, shelf.write(wanted, copied, base)) == []

    check()


@pytest.mark.slow
def test_a_copy_of_any_nasty_image_becomes_any_other(shelf: Shelf, tmp_path: Path) -> None:
    """The changes from one tree to another give exactly that one, names of hard-linked files included."""
    names = [name for name in sorted(nasty.ALL) if nasty.ALL[name].closed]
    for number, (first, second) in enumerate(zip(names, [*names[7:], *names[:7]], strict=True)):
        base, wanted = (shelf.tree(shelf.add(nasty.ALL[name].tars())) for name in (first, second))
        expected = shelf.write(wanted, tmp_path / f"{number}-expected")
        copied = shelf.write(base, tmp_path / f"{number}-copy")
        assert differences(expected, shelf.write(wanted, copied, base)) == [], (first, second)
        shutil.rmtree(copied)
