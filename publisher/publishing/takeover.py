"""A layer that another publisher left gets its record: its tar is read once more, and what is published stays as it is.

The record says what the tar says; how deletions stand in the published tree and what is in it besides is looked at. A
published tree that lacks something of the layer is not taken over, for a record would call it whole.
"""

import os
import posixpath
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from cvmfsrepo.errors import DataLoss
from cvmfsrepo.layout import CATALOG_MARKER
from cvmfsrepo.tree import Entry, Notation, Record, encode, make_record
from cvmfsrepo.whiteouts import OCI_OPAQUE, OCI_PREFIX, Markers
from publisher.publishing.wanted import WantedLayer
from publisher.transactions.collected import write_file
from publisher.unpacking.removal import remove_tree

_NAMED = 5
"""Missing names that an error tells."""


def notation_of(layerfs: Path) -> Notation:
    """How deletions stand in a published tree: raw, unless there is no raw name and there is a device 0:0."""
    found = Notation.OCI
    for path, entry in _walk(layerfs):
        if posixpath.basename(path).startswith(OCI_PREFIX):
            return Notation.OCI
        if _is_whiteout(entry):
            found = Notation.OVERLAY
    return found


def record_of(
    layer: WantedLayer, notation: Notation, entries: Iterable[Entry], markers: Markers, layerfs: Path
) -> Record:
    """The record of a published layer. DataLoss where its tree lacks names of the layer."""
    entries = tuple(entries)
    wanted = {entry.path for entry in entries} | set(_marker_names(notation, markers))
    there = {path for path, _ in _walk(layerfs)} | {b""}
    if missing := sorted(wanted - there):
        named = ", ".join(repr(os.fsdecode(path)) for path in missing[:_NAMED])
        raise DataLoss(
            "layer", str(layer.digest), f"is published without {len(missing)} of its names: {named}",
            "remove its directory where no node uses it, and publish the image again",
        )  # fmt: skip
    extras = sorted(there - wanted)
    strangers = [path for path in extras if posixpath.basename(path) != CATALOG_MARKER.encode()]
    if strangers:
        named = ", ".join(repr(os.fsdecode(path)) for path in strangers[:_NAMED])
        problem = f"is published with {len(strangers)} names that its tar does not have: {named}"
        raise DataLoss("layer", str(layer.digest), problem, "look who wrote them; the layer cannot be taken over")
    return make_record(layer.digest, layer.diff_id, notation, entries, markers, extras)


def keep_record(staged: Path, name: str, record: Record) -> None:
    """Leaves in a staged layer what is added to the published one: the record, beside the tar-split."""
    remove_tree(staged / "layerfs")
    write_file(staged / ".metadata" / name, encode(record))


def _marker_names(notation: Notation, markers: Markers) -> list[bytes]:
    """The names that stand for deletions in a tree."""
    if notation is Notation.OVERLAY:
        return list(markers.whiteouts)
    raw = [posixpath.join(directory, OCI_OPAQUE) for directory in markers.opaques]
    for path in markers.whiteouts:
        directory, name = posixpath.split(path)
        raw.append(posixpath.join(directory, OCI_PREFIX + name))
    return raw


def _walk(layerfs: Path) -> Iterator[tuple[bytes, "os.DirEntry[bytes]"]]:
    base, pending = os.fsencode(layerfs), [b""]
    while pending:
        current = pending.pop()
        with os.scandir(posixpath.join(base, current)) as names:
            for entry in names:
                path = posixpath.join(current, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(path)
                yield path, entry


def _is_whiteout(entry: "os.DirEntry[bytes]") -> bool:
    status = entry.stat(follow_symlinks=False)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
