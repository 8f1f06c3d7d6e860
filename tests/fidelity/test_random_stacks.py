"""Random layer stacks, published and served, against the oracle that is proved equal to a pull."""

import os
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings

from cvmfsrepo.compare import compare
from snapshotter.snapshotter import Snapshotter
from tests.fidelity.proof import undated_directories, viewed
from tests.fidelity.publishing import Form, publish
from tests.fidelity.pulling import node, pull
from tests.images import oracle
from tests.images.ocilayout import write_image
from tests.images.stack import Layers
from tests.images.strategies import stacks
from tests.images.tarlayer import layer_tar
from tests.mounting import standin

pytestmark = [pytest.mark.fuse, pytest.mark.root, pytest.mark.slow]

NUMBERS = count()


@pytest.fixture(scope="module", params=[Form.OVERLAY, Form.OCI])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Form, Path, Snapshotter, Snapshotter]]:
    """A form, its repository, and two nodes: over the plain directory and over the stand-in mount."""
    base = tmp_path_factory.mktemp("random")
    repository = base / "repository"
    repository.mkdir()
    with (
        standin(repository, base / "cvmfs"),
        node(base / "plain", repository) as plain,
        node(base / "mount", base / "cvmfs") as mount,
    ):
        yield request.param, repository, plain, mount


def test_a_random_image_is_served_as_the_specification_says(
    served: tuple[Form, Path, Snapshotter, Snapshotter],
) -> None:
    """In both notations, from a directory without any difference, from a mount with none but hard links."""
    form, repository, plain, mount = served

    @settings(max_examples=60)
    @given(layers=stacks())
    def check(layers: Layers) -> None:
        with tempfile.TemporaryDirectory(prefix="random-") as directory:
            tars, ref = [layer_tar(entries) for entries in layers], f"n{next(NUMBERS)}"
            undated = {os.fsencode(path) for path in oracle.apply(tars, Path(directory, "truth"))}
            ignore = undated_directories({b"" if path == b"." else path for path in undated})
            image = write_image(Path(directory, "layout"), tars, ref)
            publish(image, repository, f"registry.example.org/random/{ref}:1", form)
            for snapshotter, links in ((plain, True), (mount, False)):
                with viewed(snapshotter, pull(snapshotter, image)) as root:
                    found = compare(Path(directory, "truth"), root, ignore=ignore)
                    assert [str(d) for d in found if links or d.field != "hard-links"] == []

    check()
