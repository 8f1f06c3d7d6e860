"""The outline of a layer without a tree record: one bounded walk over its directory.

A raw layer does not say which directories its tar left out; `cvmfs_server ingest` gives those mode 0755 and the time
of the ingest, as it does to the layer's catalog marker, while listed ones keep the tar's time. So a directory of mode
0755 that is not older than the marker (by more than an ingest may take) counts as implied. Without a marker every
directory of mode 0755 does: rather keep a private directory closed than open it.
"""

import os
import posixpath
import stat
import time
from collections.abc import Iterator
from enum import Enum, auto
from pathlib import Path

from cvmfsrepo import xattrs
from cvmfsrepo.errors import DataLoss
from cvmfsrepo.outline import CATALOG, Outline, Source
from cvmfsrepo.tree import NAMES_LIMIT, Entry
from cvmfsrepo.whiteouts import Markers, ancestors, is_oci_marker, is_overlay_whiteout

DIRECTORIES_LIMIT = 1_000_000
"""What a walk keeps in memory."""

LONGEST_INGEST = 600
"""Seconds by which an implied directory may be older than the catalog marker that the same ingest wrote last."""


class WalkExpired(Exception):
    """The time for a walk was over before its end."""


def outline_by_walk(layerfs: Path, until: float) -> Outline:
    """Walks the layer once. Gives up with WalkExpired when `time.monotonic()` passes `until`; DataLoss where it would
    fill the memory; OSError as it comes."""
    base = os.fsencode(layerfs)
    markers, catalogs, devices, modes = list[bytes](), list[bytes](), list[bytes](), dict[bytes, os.stat_result]()
    for path, kind in _names(base, until):
        name = posixpath.basename(path)
        if kind is _Kind.DIRECTORY:
            modes[path] = os.lstat(posixpath.join(base, path) if path else base)
        if kind is _Kind.SPECIAL and _is_whiteout(posixpath.join(base, path)):
            devices.append(path)
        elif is_oci_marker(name):  # also of a directory: so does a pull
            markers.append(path)
        elif name == CATALOG and kind is not _Kind.DIRECTORY:
            catalogs.append(path)
        if len(markers) > NAMES_LIMIT or len(modes) > DIRECTORIES_LIMIT:
            problem = f"has more than {NAMES_LIMIT} markers or {DIRECTORIES_LIMIT} directories"
            raise DataLoss("layer", os.fsdecode(layerfs), f"{problem}, and a node takes no more")
    hidden = {*markers, *catalogs, CATALOG} - set(devices)
    implied = _implied(base, modes, CATALOG in catalogs)
    deleted = Markers.of_oci_names(markers)
    wanted = {b"", *implied, *(above for path in (*hidden, *implied) for above in ancestors(path))}
    return Outline(
        source=Source.WALK,
        whiteouts=deleted.whiteouts,
        devices=tuple(sorted(devices)),
        opaques=deleted.opaques,
        hidden=tuple(sorted(hidden)),
        directories=tuple(_directory(base, path, modes[path], path in implied) for path in sorted(wanted)),
    )


class _Kind(Enum):
    """What a listing tells of a name without another look."""

    DIRECTORY = auto()
    SPECIAL = auto()
    OTHER = auto()


def _is_whiteout(path: bytes) -> bool:
    status = os.lstat(path)
    return is_overlay_whiteout(status.st_mode, status.st_rdev)


def _names(base: bytes, until: float) -> Iterator[tuple[bytes, _Kind]]:
    """Every path of the layer, the root first, and its kind."""
    yield b"", _Kind.DIRECTORY
    pending = [b""]
    while pending:
        if time.monotonic() > until:
            raise WalkExpired(f"the walk of {os.fsdecode(base)} did not end in time")
        current = pending.pop()
        with os.scandir(posixpath.join(base, current)) as names:
            for name in names:
                path, kind = posixpath.join(current, name.name), _kind(name)
                yield path, kind
                if kind is _Kind.DIRECTORY:
                    pending.append(path)


def _kind(name: os.DirEntry[bytes]) -> _Kind:
    if name.is_dir(follow_symlinks=False):
        return _Kind.DIRECTORY
    plain = name.is_file(follow_symlinks=False) or name.is_symlink()
    return _Kind.OTHER if plain else _Kind.SPECIAL


def _implied(base: bytes, modes: dict[bytes, os.stat_result], has_marker: bool) -> frozenset[bytes]:
    oldest = os.lstat(posixpath.join(base, CATALOG)).st_mtime - LONGEST_INGEST if has_marker else float("-inf")
    return frozenset(
        path for path, status in modes.items() if stat.S_IMODE(status.st_mode) == 0o755 and status.st_mtime >= oldest
    )


def _directory(base: bytes, path: bytes, status: os.stat_result, implied: bool) -> Entry:
    attributes = xattrs.read_all(posixpath.join(base, path) if path else base)
    return Entry(
        path, status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, xattrs=attributes, implied=implied
    )
