"""What publication lost of a layer: known from the record's witnesses, never guessed."""

import os
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from cvmfsrepo.compare import entry_at
from cvmfsrepo.contained import holder_of
from cvmfsrepo.tree import Entry


class Loss(StrEnum):
    """What differs between a layer's tar and its directory in the repository."""

    OWNERS = "owners"
    MODES = "modes"
    XATTRS = "extended attributes"
    HARD_LINKS = "hard links"
    ENTRIES = "entries"


def find_losses(layerfs: Path, witnesses: Iterable[Entry]) -> list[Loss]:
    """Compares the layer with a few entries of its record; sorted, each once. OSError as it comes."""
    found = set[Loss]()
    for witness in witnesses:
        try:
            entry, names = _entry(layerfs, witness.path)
        except (FileNotFoundError, NotADirectoryError):
            found.add(Loss.ENTRIES)
            continue
        if (entry.uid, entry.gid) != (witness.uid, witness.gid):
            found.add(Loss.OWNERS)
        if entry.mode != witness.mode:
            found.add(Loss.MODES)
        if not witness.xattrs.items() <= entry.xattrs.items():
            found.add(Loss.XATTRS)
        if witness.group and names < 2:
            found.add(Loss.HARD_LINKS)
    return sorted(found)


def _entry(layerfs: Path, path: bytes) -> tuple[Entry, int]:
    """An entry and how many names it has. A record may name a path through a link of the layer: not followed."""
    if not path:
        return entry_at(os.fsencode(layerfs), b""), 0
    with holder_of(layerfs, layerfs / os.fsdecode(path)) as (directory, name):
        entry = entry_at(b"/proc/self/fd/%d" % directory, os.fsencode(name))
        return entry, os.stat(name, dir_fd=directory, follow_symlinks=False).st_nlink
