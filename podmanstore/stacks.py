"""Layers on their parents -> the entries of `overlay/`: what each holds, and what stands below it. Pure.

For each held layer that stands on a parent there is an entry with the id that a pull would give it; for each held
layer by itself one more, which such an entry stands on where its own `diff` is a shim; and one for each shim below.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from cvmfsrepo.shims import Shim
from podmanstore.ids import held_id, link_name, shim_id
from podmanstore.records import OURS, UNKNOWN_TIME, LayerRecord
from podmanstore.values import HeldLayer

_FORMAT = "1"
"""Of an entry's files: another number makes every entry anew."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A directory in `overlay/`: `content` is the absolute path that its `diff` links to, or the shim that it is;
    `lower` the ids of what stands below, topmost first; `tar_split` an absolute path or empty."""

    id: str
    content: str | Shim
    lower: tuple[str, ...] = ()
    tar_split: str = ""

    @property
    def link(self) -> str:
        return link_name(self.id)


@dataclass(frozen=True, slots=True)
class Surrounded:
    """A held layer with the keys of its shims, empty where it has none."""

    layer: HeldLayer
    hide: str
    white: str

    @property
    def digest(self) -> str:
        return self.layer.layer

    @property
    def alone(self) -> Entry:
        """The layer by itself. Its tar has the layer's own markers, so a pull that needs the layer in another order
        copies it from here."""
        return Entry(held_id(self.digest), self.layer.target, (), self.layer.tar_split)

    def contents(self, identity: str) -> dict[str, str]:
        """What it adds to a stack, topmost first: a name of what is shown -> the entry that shows it."""
        contents = {self.hide or self.digest: identity}
        if self.hide:
            contents[self.digest] = held_id(self.digest)
        if self.white:
            contents.setdefault(self.white, shim_id(self.white))
        return contents


@dataclass(frozen=True, slots=True)
class Node:
    """A layer on its parent (an id, or empty); `depth` counts the layers below."""

    id: str
    parent: str
    depth: int
    layer: Surrounded


class Stacks:
    """Entries and records of layers that are added one by one, parents first.

    A directory that stands higher in a stack already is left out: it could only add what is there, and overlayfs
    refuses the same directory twice (ELOOP). Images do repeat layers, and layers share shims.
    """

    def __init__(self) -> None:
        self._stacks: dict[str, dict[str, str]] = {"": {}}
        self._made: dict[str, tuple[Entry, LayerRecord]] = {}
        self._shims: dict[str, Entry] = {}

    def hold(self, held: Surrounded) -> None:
        """Adds a layer by itself."""
        if (identity := held_id(held.digest)) not in self._made:
            alone = held.alone
            self._made[identity] = alone, _record(alone, held, "", "")

    def add(self, node: Node) -> None:
        """Adds a layer on its parent, which was added before."""
        held = node.layer
        stack = held.contents(node.id)
        if held.white and held.layer.white:
            below = shim_id(held.white)
            self._shims.setdefault(below, Entry(below, held.layer.white))
        for content, identity in self._stacks[node.parent].items():
            stack.setdefault(content, identity)
        self._stacks[node.id] = stack
        # podman puts a tar together from the entry's files or, where it cannot open one, from those right below; a shim
        # has no files that can be opened, and right below is the layer.
        lower = tuple(stack.values())[1:]
        entry = Entry(node.id, held.layer.hide or held.layer.target, lower, held.layer.tar_split)
        self._made[node.id] = entry, _record(entry, held, node.parent, held.hide)

    def entries(self) -> Iterator[Entry]:
        """In the order of their ids."""
        made = {identity: entry for identity, (entry, _) in self._made.items()} | self._shims
        return (made[identity] for identity in sorted(made))

    def records(self) -> Iterator[LayerRecord]:
        """Of all entries but shims, which podman only finds as what others stand on."""
        return (record for _, record in self._made.values())


def _record(entry: Entry, held: Surrounded, parent: str, hide: str) -> LayerRecord:
    layer = held.layer
    return LayerRecord(
        id=entry.id,
        parent=parent,
        metadata=_description(entry, hide),
        created=UNKNOWN_TIME,
        compressed_digest=f"sha256:{layer.layer}",
        compressed_size=layer.size,
        diff_digest=f"sha256:{layer.diff_id}",
        diff_size=layer.tar_size or 0,
        compression=layer.compression,
    )


def _description(entry: Entry, hide: str) -> str:
    """Names what an entry's files hold, for a record's `metadata`."""
    content = hide or str(entry.content)
    text = "\0".join((_FORMAT, "shim" if hide else "link", content, entry.tar_split, *entry.lower))
    return OURS + hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]
