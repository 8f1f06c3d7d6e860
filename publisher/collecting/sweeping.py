"""Where things are, what they measure, and how they go: by a publication, names before what they lead to."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from cvmfsrepo.digest import Digest
from cvmfsrepo.layout import Layout
from publisher.collecting.measure import Ledger
from publisher.collecting.survey import Kind, Name, Survey, Thing
from publisher.publishing.listing import contents_with, read_listed
from publisher.transactions.contract import Transaction

_SECOND = 10**9


class Places:
    """The paths of a survey's things, in the order in which they are removed: a tree's mark before the tree."""

    def __init__(self, layout: Layout, survey: Survey) -> None:
        self._layout = layout
        self._names: dict[str, Name] = {name.name: name for name in (*survey.halves, *survey.names)}

    def paths(self, thing: Thing) -> Sequence[Path]:
        """Of the thing; not all of them need to be there."""
        if thing.kind is Kind.NAME:
            return [self._layout.root / path for path in self._names[thing.name].paths]
        layout, digest = self._layout, Digest(thing.name)
        match thing.kind:
            case Kind.LINK:
                return [layout.diff_id_link(digest)]
            case Kind.FLAT:
                return [layout.flat_mark(digest), layout.flat(digest)]
            case Kind.CHAIN:
                return [layout.chain_mark(digest), layout.chain(digest)]
            case Kind.LAYER:
                return [layout.layer(digest)]
            case _:
                return [layout.blob(digest)]

    def measure(self, thing: Thing, ledger: Ledger) -> int:
        """Bytes that go with it, and with what was measured before. A name's own directory holds nothing else."""
        return ledger.measure(path for path in self.paths(thing) if thing.kind is not Kind.NAME or not path.is_dir())


def sweep(transaction: Transaction, things: Iterable[Thing], places: Places, now: float) -> None:
    """Has things go, in their order, and the repository's index tell the truth before."""
    withdrawn = set[str]()
    for thing in things:
        withdrawn |= {thing.name} if thing.kind is Kind.NAME else set()
        for path in places.paths(thing):
            transaction.remove(path)
    layout = transaction.layout
    if layout.index.exists():  # DUCC's repositories have none
        listed = [image for name, image in read_listed(layout).items() if name not in withdrawn]
        time = int(now * _SECOND)
        transaction.announce_made(lambda revision: contents_with(listed, revision, time).encode(), layout.index)
