"""What is in a repository, as far as it matters to what may go: values that `reading.py` reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from cvmfsrepo.digest import Digest


class Kind(Enum):
    """Kinds of things, in the order in which they go: what leads to content goes before the content."""

    NAME = "name"
    LINK = "diff id link"
    FLAT = "flat tree"
    CHAIN = "chain"
    LAYER = "layer"
    BLOB = "document"

    @property
    def order(self) -> int:
        return [*Kind].index(self)


class Thing(NamedTuple):
    """Something that goes or stays as a whole; `name` is a reference, or a digest's digits."""

    kind: Kind
    name: str

    @property
    def key(self) -> str:
        """What it is called in the state."""
        return f"{self.kind.name.lower()}:{self.name}"


@dataclass(frozen=True, slots=True)
class Name:
    """A published name. `layers` are those of each of its manifests, base first (DUCC's and the original may differ),
    `configs` theirs, `documents` the blobs that its pointer names, `flats` where its public links lead, `platforms`
    the manifests of its image indexes. `has_link` tells whether it has a public link, `has_manifest` a manifest.json.
    `published` is in seconds since 1970."""

    name: str
    configs: tuple[Digest, ...] = ()
    layers: tuple[tuple[Digest, ...], ...] = ()
    documents: tuple[Digest, ...] = ()
    flats: tuple[Digest, ...] = ()
    platforms: frozenset[Digest] = frozenset()
    published: float = 0
    has_manifest: bool = True
    paths: tuple[str, ...] = ()
    """What goes when it is withdrawn, in that order, from the repository's root."""


Layers = tuple[Digest, ...] | None
"""The layers of a tree by its mark; None for a mark that a newer version wrote."""


@dataclass(frozen=True, slots=True)
class Survey:
    """All of it. Digests of flat trees and chains are of their directories and of their marks; a name without a
    manifest and without a link is in `halves`. `elsewhere` is where links lead that are no image's, `stored` what
    podman's store lists, `building` what DUCC is making. `origins` and `diff_ids`, by layer, are read only if leases
    ask for them. `unknown` are paths of no known shape, which are never collected."""

    names: tuple[Name, ...] = ()
    halves: tuple[Name, ...] = ()
    links: Mapping[Digest, Digest] = field(default_factory=dict)
    flats: frozenset[Digest] = frozenset()
    chains: frozenset[Digest] = frozenset()
    layers: frozenset[Digest] = frozenset()
    blobs: frozenset[Digest] = frozenset()
    flat_marks: Mapping[Digest, Layers] = field(default_factory=dict)
    chain_marks: Mapping[Digest, Layers] = field(default_factory=dict)
    elsewhere: frozenset[Digest] = frozenset()
    stored: frozenset[Digest] = frozenset()
    building: frozenset[Digest] = frozenset()
    origins: Mapping[Digest, tuple[Digest, ...]] = field(default_factory=dict)
    diff_ids: Mapping[Digest, Digest] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
