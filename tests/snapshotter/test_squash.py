"""Layers laid onto a plain directory are the image: against the independent oracle of the tests."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings

from cvmfsrepo.compare import compare
from cvmfsrepo.oci import Platform
from publisher.source import open_source
from snapshotter.cli.original import unpack_original
from snapshotter.cli.resolving import from_source
from tests.examples import examples
from tests.fidelity.proof import undated_directories
from tests.images import nasty, oracle
from tests.images.ocilayout import write_image
from tests.images.stack import Layers
from tests.images.strategies import stacks
from tests.images.tarlayer import layer_tar

pytestmark = pytest.mark.root


def differences(tars: list[bytes], directory: Path) -> tuple[list[str], frozenset[bytes], frozenset[bytes]]:
    """Those between the oracle's tree and ours, and the undated directories of both."""
    undated = frozenset(b"" if path == "." else os.fsencode(path) for path in oracle.apply(tars, directory / "truth"))
    image = write_image(directory / "layout", tars, "x")
    found = from_source(image.source, "linux/amd64")
    place = directory / "place"
    place.mkdir()
    assert open_source(image.source, Platform("linux", "amd64")).manifest == (found.source and found.source.manifest)
    assert found.source is not None
    original = unpack_original(found, found.source, place, lambda text: None)
    told = compare(directory / "truth", original.root, ignore=undated_directories(undated))
    return [str(difference) for difference in told], undated, original.undated


@pytest.mark.parametrize("name", sorted(nasty.ALL))
def test_a_nasty_image_is_what_the_specification_says(name: str, tmp_path: Path) -> None:
    """Every name, attribute, hard link and byte; and the same directories have a time of their own."""
    told, undated, ours = differences(nasty.ALL[name].tars(), tmp_path)
    assert told == []
    assert ours == undated


@pytest.mark.slow
def test_a_random_image_is_what_the_specification_says(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Layers that meet in every way."""

    @settings(max_examples=examples(50))
    @given(layers=stacks())
    def check(layers: Layers) -> None:
        told, undated, ours = differences([layer_tar(entries) for entries in layers], tmp_path_factory.mktemp("x"))
        assert told == []
        assert ours <= undated  # the oracle also names directories that a link leads to

    check()
