"""Whole trees of described layers: what the records say, what is on the disk, and what the oracle makes."""

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cvmfsrepo.compare import compare
from cvmfsrepo.digest import Digest
from cvmfsrepo.layout import Layout
from cvmfsrepo.repository import Repository
from cvmfsrepo.tree import Record
from publisher.flat.flatten import Over, Tree, flatten
from publisher.flat.write import Sharing, filling
from publisher.unpacking.space import FreeSpace
from tests.fidelity.proof import undated_directories
from tests.images import oracle
from tests.images.ocilayout import Image, write_image
from tests.publisher.publishing import publish

_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Shelf:
    """A repository in a directory of a test, and what its layers make."""

    directory: Path

    @property
    def layout(self) -> Layout:
        return Layout(self.directory / "repository")

    def add(self, tars: Sequence[bytes]) -> Image:
        """Publishes an image of these tars, under a name of its own."""
        self.layout.root.mkdir(exist_ok=True)
        ref = f"registry.example/group/image:{next(_NUMBERS)}"
        image = write_image(self.directory / "layout", tars, ref)
        publish(image, self.layout.root)
        return image

    def record(self, layer: Digest) -> Record:
        found = Repository("test", self.layout).find_record(layer)
        assert found is not None
        return found

    def tree(self, image: Image) -> Tree:
        return flatten(Over.of(self.record(Digest.parse(layer))) for layer in image.layers)

    def write(self, wanted: Tree, directory: Path, base: Tree | None = None, sharing: Sharing = Sharing.COPY) -> Path:
        """Into a new directory, or into one that is a copy of `base`."""
        if base is None:
            directory.mkdir()
        space = FreeSpace(self.directory, reserve=0)
        filling(wanted, self.layout.layerfs, space, base, sharing)(directory, base is not None)
        return directory


def oracle_tree(tars: Sequence[bytes], directory: Path) -> tuple[Path, frozenset[bytes]]:
    """The oracle's tree, and the directories whose time means nothing."""
    undated = oracle.apply(tars, directory)
    return directory, frozenset(b"" if path == "." else os.fsencode(path) for path in undated)


def differences(expected: Path, found: Path, undated: frozenset[bytes] = frozenset()) -> list[str]:
    return [str(difference) for difference in compare(expected, found, ignore=undated_directories(undated))]
