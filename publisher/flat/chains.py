"""From which tree an image's is best made, and when the tree of its lowest layers is worth keeping. Pure.

A tree is told by its diff ids. Its cost is counted in entries, as their layers' records number them: no more names than
those are touched. Only CVMFS copies trees for nothing; in a directory making a tree from its layers costs no more.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cvmfsrepo.digest import Digest
from publisher.flat.apptainer import VERSION
from publisher.flat.marks import Known, Mark

WORTH = 1000
"""Entries that a chain has to save the next image on it."""


@dataclass(frozen=True, slots=True)
class Base:
    """A tree to begin with: its first `shared` layers are the image's; `undone` entries of it are not, and `made` are
    the image's own."""

    known: Known
    shared: int
    undone: int
    made: int

    @property
    def cost(self) -> int:
        return self.undone + self.made


def find_base(image: Mark, known: Iterable[Known]) -> Base | None:
    """The base that costs least; None where beginning with nothing does. Of two that cost the same a chain is
    taken, then the first."""
    bases = [base for tree in known if (base := _base(image, tree))]
    best = min(bases, key=lambda base: (base.cost, base.known.config is not None), default=None)
    return best if best and best.cost < sum(image.entries) else None


def find_chain(image: Mark, known: Iterable[Known], worth: int = WORTH) -> int | None:
    """How many of the image's lowest layers are worth a chain of their own: those that it shares with its base, if of
    that one `worth` entries or more have to be undone each time. So there is at most one new chain an image, none that
    is a known tree already, and none for what is small."""
    best = find_base(image, known)
    if best is None or not 0 < best.shared < len(image.diff_ids):
        return None
    return best.shared if best.undone >= worth else None


def shortened(mark: Mark, length: int) -> Mark:
    """The mark of the chain of so many layers."""
    return Mark(mark.layers[:length], mark.diff_ids[:length], mark.entries[:length])


def _base(image: Mark, tree: Known) -> Base | None:
    """None where nothing is shared, or where the tree holds files that are not known to this version."""
    shared = _shared(image.diff_ids, tree.mark.diff_ids)
    if not shared or tree.mark.apptainer != (VERSION if tree.config else 0):
        return None
    return Base(tree, shared, sum(tree.mark.entries[shared:]), sum(image.entries[shared:]))


def _shared(one: Sequence[Digest], other: Sequence[Digest]) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
