"""The oracle against the real thing: containerd's overlayfs unpacks each stack, and the trees are compared."""

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
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
from tests.images.treefacts import Tree, differences, read_tree

pytestmark = [pytest.mark.engine, pytest.mark.root]
NUMBERS = count()
GENERATIONS = list(VERSIONS)


@pytest.fixture(scope="module", params=GENERATIONS)
def containerd(request: pytest.FixtureRequest) -> Iterator[Containerd]:
    with Containerd(request.param, "no/pod:runs-here") as started:
        yield started


@contextmanager
def pulled(containerd: Containerd, image: Image, directory: Path) -> Iterator[Path]:
    """The image imported, unpacked by overlayfs and mounted."""
    archive, base = directory / "image.tar", f"test/image{next(NUMBERS)}"
    subprocess.run(["tar", "-C", image.path, "-cf", archive, "."], check=True)
    containerd.ctr("images", "import", "--snapshotter", "overlayfs", "--base-name", base, archive)
    mountpoint = directory / "mounted"
    mountpoint.mkdir()
    containerd.ctr("images", "mount", "--snapshotter", "overlayfs", f"{base}:{image.ref}", mountpoint)
    try:
        yield mountpoint
    finally:
        subprocess.run(["umount", mountpoint], check=True)


@dataclass(frozen=True, slots=True)
class Expected:
    """What the oracle makes of an image, without the times of the directories that have none."""

    tree: Tree
    undated: frozenset[str]

    @classmethod
    def of(cls, layers: Sequence[bytes], directory: Path) -> "Expected":
        undated = oracle.apply(layers, directory / "expected")
        return cls(read_tree(directory / "expected", undated), undated)

    def differences(self, found: Path) -> list[str]:
        return differences(self.tree, read_tree(found, self.undated))


def pull_differences(containerd: Containerd, layers: Sequence[bytes], directory: Path) -> list[str]:
    image = write_image(directory / "layout", layers, "latest")
    expected = Expected.of(layers, directory)
    with pulled(containerd, image, directory) as found:
        return expected.differences(found)


@pytest.fixture(scope="module")
def expected_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Image], Expected]:
    """The oracle's word for an image, asked once for all containerds: it needs as long as a pull."""
    return cache(lambda image: Expected.of(read_layers(image), tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize("stack", ALL.values(), ids=lambda stack: stack.name)
def test_a_pull_makes_of_it_what_the_case_says(containerd: Containerd, stack: Stack, tmp_path: Path) -> None:
    """Equal to the oracle; or different, or refused, where the case says so: a change of containerd is noticed."""
    if stack.pull == "fails":
        with pytest.raises(DebsError, match=r"file exists|not a directory"):
            pull_differences(containerd, stack.tars(), tmp_path)
    else:
        assert bool(pull_differences(containerd, stack.tars(), tmp_path)) == (stack.pull == "differs")


@pytest.mark.parametrize("whole", [debian_image, deep_image])
def test_a_pull_of_whole_images_equals_the_oracle(
    containerd: Containerd,
    whole: Callable[[], Image],
    expected_of: Callable[[Image], Expected],
    tmp_path: Path,
) -> None:
    """Debian of six layers and an image of 100: no difference in anything that can be seen."""
    image = whole()
    with pulled(containerd, image, tmp_path) as found:
        assert expected_of(image).differences(found) == []


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
