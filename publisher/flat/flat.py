"""The flat tree of an image in a publication: what Apptainer runs below the image's public name.

A tree that is there is left as it is, whoever made it: somebody may run in it. A new one is made from the records and
files of its layers, or where the repository can copy trees from the one that is nearest to it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from cvmfsrepo.digest import Digest, chain_id
from cvmfsrepo.errors import FailedPrecondition
from cvmfsrepo.layout import Layout, flat_target
from cvmfsrepo.oci import Reference
from cvmfsrepo.repository import Repository
from cvmfsrepo.tree import Record
from publisher.flat.apptainer import VERSION, with_apptainer
from publisher.flat.chains import WORTH, find_base, find_chain, shortened
from publisher.flat.flatten import Over, Tree, flatten
from publisher.flat.imageconfig import parse_run_config
from publisher.flat.marks import Known, Mark, walk_known
from publisher.flat.write import LayerFs, Sharing, filling
from publisher.transactions.contract import Fill, Transaction
from publisher.unpacking.space import FreeSpace

Records = Callable[[Digest], Record | None]
"""A layer's record at the time of the call, in the staging area or in the repository; None where it has none."""


@dataclass(frozen=True, slots=True)
class FlatImage:
    """An image whose tree is wanted: its config's bytes, and its layers, base first and as often as it names them."""

    reference: Reference
    config: bytes
    layers: Sequence[Digest]

    @property
    def digest(self) -> Digest:
        return Digest.of(self.config)


class State(Enum):
    """What a publication did: `FOREIGN` is a tree that was there and is not of our making."""

    MADE = "made"
    PRESENT = "present"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class FlatReport:
    """`base` is the tree that it was made from, if the repository could; `chain` the chain that was made besides."""

    state: State
    base: Path | None = None
    chain: Digest | None = None


@dataclass(slots=True)
class Flats:
    """The flat trees of one publication. `records` and `layerfs` answer for the layers of its images and for published
    ones. Where the repository `copies` trees for nothing, one to begin with is looked for, and chains are kept."""

    transaction: Transaction
    records: Records
    layerfs: LayerFs
    space: FreeSpace
    sharing: Sharing = Sharing.COPY
    copies: bool = False
    worth: int = WORTH
    _added: set[Path] = field(default_factory=set)
    _known: tuple[Known, ...] | None = None
    _latest: tuple[object, Tree] | None = None

    @property
    def _layout(self) -> Layout:
        return self.transaction.layout

    def add(self, image: FlatImage) -> FlatReport:
        """Adds the tree, if it is not there, and announces the public link. FailedPrecondition where a layer has no
        record; InvalidArgument or DataLoss for a config or record that is none: then nothing was added."""
        final = self._layout.flat(image.digest)
        if final in self._added:
            report = FlatReport(State.PRESENT)
        elif final.is_dir():
            own = self._layout.flat_mark(image.digest).is_file()
            report = FlatReport(State.PRESENT if own else State.FOREIGN)
        else:
            report = self._add_tree(image, final)
        link = self._layout.public_link(image.reference)
        self.transaction.announce_link(flat_target(image.reference, image.digest), link)
        return report

    def _add_tree(self, image: FlatImage, final: Path) -> FlatReport:
        mark = self._mark(image)
        known = self._candidates() if self.copies else ()
        base = find_base(mark, known)
        length = find_chain(mark, known, self.worth)
        self._tree(mark, image.config)  # what is wrong with a record is told now, and not when all is shown
        chain = self._add_chain(shortened(mark, length), base.known if base else None) if length else None
        self._add(final, mark, self._layout.flat_mark(image.digest), image.config, base.known if base else None)
        return FlatReport(State.MADE, base.known.final if base else None, chain)

    def _candidates(self) -> tuple[Known, ...]:
        """The trees whose layers all have records yet, and whose config is kept."""
        if self._known is None:
            self._known = tuple(tree for tree in walk_known(self._layout) if self._is_readable(tree))
        return self._known

    def _is_readable(self, tree: Known) -> bool:
        records = all(self._layout.tree_record(layer).is_file() for layer in tree.mark.layers)
        return records and (tree.config is None or self._layout.blob(tree.config).is_file())

    def _add_chain(self, mark: Mark, base: Known | None) -> Digest | None:
        """The chain's id; None where it is there already or was added by another image."""
        name = chain_id(mark.diff_ids)
        final = self._layout.chain(name)
        if final in self._added or final.is_dir():
            return None
        self._add(final, mark, self._layout.chain_mark(name), None, base)
        return name

    def _add(self, final: Path, mark: Mark, mark_file: Path, config: bytes | None, base: Known | None) -> None:
        self.transaction.add_tree(final, self._filling(mark, config, base), base.final if base else None)
        self._added.add(final)
        self.transaction.add_file(mark.encode(), mark_file)
        self.transaction.cut_catalog(final)

    def _filling(self, mark: Mark, config: bytes | None, base: Known | None) -> Fill:
        """It computes the trees when it is called: a publication of many images never holds all of them."""

        def fill(directory: Path, from_base: bool) -> None:
            old = self._base_tree(base) if from_base and base else None
            wanted = self._tree(mark, config)
            filling(wanted, self.layerfs, self.space, old, self.sharing)(directory, from_base)

        return fill

    def _mark(self, image: FlatImage) -> Mark:
        heads = [self._record(layer, image.reference).head for layer in image.layers]
        diff_ids = tuple(Digest(head.diff_id) for head in heads)
        return Mark(tuple(image.layers), diff_ids, tuple(head.entries for head in heads), VERSION)

    def _record(self, layer: Digest, reference: Reference | None = None) -> Record:
        if (record := self.records(layer)) is not None:
            return record
        raise FailedPrecondition(
            "flat tree of image", str(reference or ""),
            f"cannot be made: layer {layer} is there without a record of what its tar says",
            "take the layer over first, which reads it once more from the registry",
        )  # fmt: skip

    def _tree(self, mark: Mark, config: bytes | None) -> Tree:
        """The last one is kept: most are asked for twice in a row."""
        key = (mark, config)
        if self._latest is None or self._latest[0] != key:
            self._latest = None
            tree = flatten(Over.of(self._record(layer)) for layer in mark.layers)
            self._latest = key, with_apptainer(tree, parse_run_config(config)) if config is not None else tree
        return self._latest[1]

    def _base_tree(self, base: Known) -> Tree:
        """What a tree of ours holds, from the repository alone."""
        published = Repository(str(self._layout.root), self._layout)
        config = published.get_blob(base.config) if base.config else None
        return self._tree(base.mark, config)
