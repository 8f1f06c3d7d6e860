"""What publication lost of a layer: known from the record's witnesses, never guessed."""

import os
import posixpath
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from cvmfsrepo.compare import entry_at
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
    base, found = os.fsencode(layerfs), set[Loss]()
    for witness in witnesses:
        try:
            entry = entry_at(base, witness.path)
        except FileNotFoundError:
            found.add(Loss.ENTRIES)
            continue
        if (entry.uid, entry.gid) != (witness.uid, witness.gid):
            found.add(Loss.OWNERS)
        if entry.mode != witness.mode:
            found.add(Loss.MODES)
        if not witness.xattrs.items() <= entry.xattrs.items():
            found.add(Loss.XATTRS)
        if witness.group and os.lstat(posixpath.join(base, witness.path)).st_nlink < 2:
            found.add(Loss.HARD_LINKS)
    return sorted(found)
