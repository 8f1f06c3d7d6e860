"""The names of an image, merged from listings of its layers: which layer shows what, without any mount. Pure.

It says which files are worth fetching, so it may err a little: marks that only an attribute tells are not known here.
"""

import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from cvmfsrepo.layout import CATALOG_MARKER
from cvmfsrepo.whiteouts import Markers, is_oci_marker

_MOST_LINKS = 40


class Kind(Enum):
    """What a listing says of a name; a WHITEOUT is overlayfs's device."""

    DIRECTORY = auto()
    FILE = auto()
    LINK = auto()
    WHITEOUT = auto()
    OTHER = auto()


Listing = Mapping[bytes, Kind]
"""All paths of a layer, as they stand in its directory, the root not among them."""


@dataclass(slots=True)
class Node:
    """A name of the image: the number of the layer that shows it, from 0, and what is below it."""

    layer: int
    kind: Kind
    children: dict[bytes, "Node"] = field(default_factory=dict)


ReadLink = Callable[[int, bytes], bytes | None]
"""The text of a link in a layer, or None where it cannot be had."""


class ImageTree:
    """The image's names. Layers are added base first."""

    def __init__(self) -> None:
        self._root = Node(0, Kind.DIRECTORY)
        self._layers = 0

    def add(self, listing: Listing, markers: Markers | None = None) -> None:
        """One layer. `markers` are those of its record; without them the raw ones in the listing count."""
        deleted = markers or Markers.of_oci_names(path for path in listing if is_oci_marker(posixpath.basename(path)))
        for path in deleted.whiteouts:
            self._remove(path)
        for path in deleted.opaques:
            if path and (node := self.find(path)):
                node.children.clear()
        for path in sorted(listing):
            name = posixpath.basename(path)
            if listing[path] is Kind.WHITEOUT:
                self._remove(path)
            elif not is_oci_marker(name) and name != CATALOG_MARKER.encode():
                self._place(path, listing[path])
        self._layers += 1

    def find(self, path: bytes) -> Node | None:
        """The node at exactly this path; no link is followed."""
        node: Node | None = self._root
        for part in path.split(b"/") if path else []:
            node = node.children.get(part) if node else None
        return node

    def resolve(self, path: bytes, read_link: ReadLink) -> bytes | None:
        """The path of what an absolute or relative path leads to from the image's root, through links; None where it
        leads nowhere."""
        done, left, links = list[bytes](), _parts(path), 0
        while left:
            part = left.pop(0)
            if part == b"..":
                done = done[:-1]
                continue
            node = self.find(b"/".join([*done, part]))
            if node is None:
                return None
            if node.kind is not Kind.LINK:
                done.append(part)
                continue
            text, links = read_link(node.layer, b"/".join([*done, part])), links + 1
            if text is None or links > _MOST_LINKS:
                return None
            done = [] if text.startswith(b"/") else done
            left = [*_parts(text), *left]
        return b"/".join(done)

    def walk(self, below: bytes = b"") -> Iterator[tuple[bytes, Node]]:
        """Every name below a path, itself too, sorted by directory."""
        pending = [(below, self.find(below))]
        while pending:
            path, node = pending.pop()
            if node is None:
                continue
            if path:
                yield path, node
            children = sorted(node.children.items(), reverse=True)
            pending += [(posixpath.join(path, name), child) for name, child in children]

    def _place(self, path: bytes, kind: Kind) -> None:
        above, name = posixpath.split(path)
        parent = self.find(above)
        if parent is None:
            return
        old = parent.children.get(name)
        if old and old.kind is kind is Kind.DIRECTORY:
            old.layer = self._layers
        else:
            parent.children[name] = Node(self._layers, kind)

    def _remove(self, path: bytes) -> None:
        above, name = posixpath.split(path)
        if (parent := self.find(above)) is not None:
            parent.children.pop(name, None)


def merged(layers: Sequence[tuple[Listing, Markers | None]]) -> ImageTree:
    """The tree of layers, base first."""
    tree = ImageTree()
    for listing, markers in layers:
        tree.add(listing, markers)
    return tree


def _parts(path: bytes) -> list[bytes]:
    return [part for part in path.split(b"/") if part not in (b"", b".")]
