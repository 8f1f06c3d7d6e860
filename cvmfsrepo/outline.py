"""The outline of a layer: all that a node must know of it to show it right, and nothing more.

It comes from the publisher's tree record or, where there is none, from one bounded walk. It depends on the layer's
digest alone, so it is kept on the node for ever.
"""

import posixpath
from collections.abc import Iterator
from enum import StrEnum

import msgspec

from cvmfsrepo.layout import CATALOG_MARKER
from cvmfsrepo.tree import Entry, Head, Notation
from cvmfsrepo.whiteouts import OCI_OPAQUE, OCI_PREFIX, Markers

CATALOG = CATALOG_MARKER.encode()


class Source(StrEnum):
    """Where an outline comes from; a walk cannot know what publication lost."""

    RECORD = "record"
    WALK = "walk"


class Outline(msgspec.Struct, frozen=True):
    """`whiteouts` are deletions that kernel overlayfs does not see in the layer itself, `devices` those that it does
    see, `opaques` the directories that end a merge; `hidden` are names in the layer that no container may see (raw
    markers and the repository's catalog markers); `directories` holds the metadata of every directory above one of
    these, of the root and of every implied directory."""

    source: Source
    whiteouts: tuple[bytes, ...] = ()
    devices: tuple[bytes, ...] = ()
    opaques: tuple[bytes, ...] = ()
    hidden: tuple[bytes, ...] = ()
    directories: tuple[Entry, ...] = ()
    witnesses: tuple[Entry, ...] = ()

    @property
    def implied(self) -> tuple[bytes, ...]:
        """Directories that a pull would give the metadata of the layer below, the root among them if so."""
        return tuple(entry.path for entry in self.directories if entry.implied)


def outline_of(head: Head) -> Outline:
    """The outline that a record's head promises. The root's catalog marker is hidden even where the record knows
    none: a repository may cut a catalog there at any later time."""
    raw = head.notation is Notation.OCI
    extras = set(head.extras) | ({CATALOG} - set(head.own_catalogs))
    markers = _oci_names(head.markers) if raw else iter(())
    return Outline(
        source=Source.RECORD,
        whiteouts=head.whiteouts if raw else (),
        devices=() if raw else head.whiteouts,
        opaques=head.opaques,
        hidden=tuple(sorted({*extras, *markers})),
        directories=head.directories,
        witnesses=head.witnesses,
    )


def _oci_names(markers: Markers) -> Iterator[bytes]:
    """The raw names that stand for a marker list."""
    for path in markers.whiteouts:
        directory, name = posixpath.split(path)
        yield posixpath.join(directory, OCI_PREFIX + name)
    for directory in markers.opaques:
        yield posixpath.join(directory, OCI_OPAQUE)
