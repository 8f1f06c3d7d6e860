"""The oracle against the real thing: containerd's overlayfs unpacks each stack, and the trees are compared."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings

from tests.engines.containerd import VERSIONS, Containerd
from tests.engines.debs import DebsError
from tests.images import oracle
from tests.images.debian import debian_image, deep_image
from tests.images.nasty import ALL
from tests.images.ocilayout import Image, read_layers, write_image
from tests.images.stack import Layers, Stack
from tests.images.strategies import stacks_equal_to_pull
from tests.images.tarlayer import layer_tar
from tests.images.treefacts import differences, read_tree

pytestmark = [pytest.mark.engine, pytest.mark.root]
NUMBERS = count()
GENERATIONS = list(VERSIONS)


@pytest.fixture(scope="module", params=GENERATIONS)
def containerd(request: pytest.FixtureRequest) -> Iterator[Containerd]:
    with Containerd(request.param, "no/pod:runs-here") as started:
        yield started


@contextmanager
def pulled(containerd: Containerd, layers: Sequence[bytes], directory: Path) -> Iterator[Path]:
    """The layers as an image of their own, imported, unpacked by overlayfs and mounted."""
    image: Image = write_image(directory / "layout", layers, f"n{next(NUMBERS)}")
    archive = directory / "image.tar"
    subprocess.run(["tar", "-C", image.path, "-cf", archive, "."], check=True)
    name = f"test/image:{image.ref}"
    containerd.ctr("images", "import", "--snapshotter", "overlayfs", "--base-name", "test/image", archive)
    mountpoint = directory / image.ref
    mountpoint.mkdir()
    containerd.ctr("images", "mount", "--snapshotter", "overlayfs", name, mountpoint)
    try:
        yield mountpoint
    finally:
        subprocess.run(["umount", mountpoint], check=True)


def pull_differences(containerd: Containerd, layers: Sequence[bytes], directory: Path) -> list[str]:
    expected = directory / "expected"
    undated = oracle.apply(layers, expected)
    with pulled(containerd, layers, directory) as found:
        return differences(read_tree(expected, undated), read_tree(found, undated))


@pytest.mark.parametrize("stack", ALL.values(), ids=lambda stack: stack.name)
def test_a_pull_makes_of_it_what_the_case_says(containerd: Containerd, stack: Stack, tmp_path: Path) -> None:
    """Equal to the oracle; or different, or refused, where the case says so: a change of containerd is noticed."""
    if stack.pull == "fails":
        with pytest.raises(DebsError, match=r"file exists|not a directory"):
            pull_differences(containerd, stack.tars(), tmp_path)
    else:
        assert bool(pull_differences(containerd, stack.tars(), tmp_path)) == (stack.pull == "differs")


def test_a_pull_of_whole_images_equals_the_oracle(containerd: Containerd, tmp_path: Path) -> None:
    """Debian of six layers and an image of 100: no difference in anything that can be seen."""
    for number, image in enumerate((debian_image(), deep_image())):
        directory = tmp_path / str(number)
        directory.mkdir()
        assert pull_differences(containerd, read_layers(image), directory) == []


def test_a_pull_of_random_stacks_equals_the_oracle(
    containerd: Containerd, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What the strategy calls equal to a pull is so."""

    @settings(max_examples=30)
    @given(layers=stacks_equal_to_pull())
    def check(layers: Layers) -> None:
        directory = tmp_path_factory.mktemp("random")
        assert pull_differences(containerd, [layer_tar(entries) for entries in layers], directory) == []

    check()
