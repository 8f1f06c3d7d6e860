"""Compares the records with the directories behind them, and says what a person changed by hand or a disk lost.

Nothing is repaired here: what belongs to a record may be the only copy, and a guess could make it worse. No repository
is touched: a layer that is away is no damage.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cvmfsrepo.digest import Digest
from cvmfsrepo.layout import Layout
from snapshotter.disk import Disk, is_staging, shim_link
from snapshotter.metastore import Record, Remote
from snapshotter.snapshots import Kind

_PULL_AGAIN = "stop what runs on it, remove the images that use it from containerd and pull them again"
_NOT_OURS = "move it elsewhere"
_NO_RECORD = "remove it when no container uses it: /proc/*/mountinfo does not name it"


@dataclass(frozen=True, slots=True)
class Finding:
    """One path that is not as the records say, and what a person can do about it."""

    path: str
    problem: str
    remedy: str


def findings(records: Iterable[Record], disk: Disk) -> list[Finding]:
    """What is wrong with the directories of all records, and what is there beside them. Orphans are swept before."""
    shims, found = set(os.listdir(disk.shims)), []
    strangers = {name for name in os.listdir(disk.snapshots) if not is_staging(name)}
    for record in records:
        directory = disk.directory(record.id)
        if str(record.id) not in strangers:
            found.append(_of(record, directory, "is missing"))
            continue
        strangers.discard(str(record.id))
        problems = _remote_problems(record.remote, directory, shims) if record.remote else _problems(record, directory)
        found += [_of(record, path, problem) for path, problem in problems]
    return found + [_stranger(disk, name) for name in sorted(strangers)]


def _problems(record: Record, directory: str) -> Iterator[tuple[str, str]]:
    """Of a local snapshot."""
    for name in ("fs", "work") if record.info.kind is Kind.ACTIVE else ("fs",):
        path = f"{directory}/{name}"
        try:
            mode = os.lstat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            yield path, "is missing"
            continue
        if not stat.S_ISDIR(mode):
            yield path, f"is no directory but {_described(path)}"


def _remote_problems(remote: Remote, directory: str, shims: set[str]) -> Iterator[tuple[str, str]]:
    """Of a snapshot that shows a repository's layer. Where the repository is mounted may have changed."""
    layer, text = str(Layout(Path("/")).layerfs(Digest(remote.layer))), _described(f"{directory}/fs")
    if not text.endswith(layer):
        yield f"{directory}/fs", f"is {text} in place of a link to layer {remote.layer[:12]}"
    for name, key in (("h", remote.hide), ("w", remote.white)):
        if not key:
            continue
        path = f"{directory}/{name}"
        if (text := _described(path)) != f"a link to {shim_link(key)}":
            yield path, f"is {text} in place of a link to shim {key[:12]}"
        elif key not in shims:
            yield path, f"leads to shim {key[:12]}, which is missing"


def _described(path: str) -> str:
    """What stands there; a link by its text, which is not followed."""
    try:
        return f"a link to {os.readlink(path)}"
    except (FileNotFoundError, NotADirectoryError):
        return "nothing"
    except OSError:  # EINVAL: no link
        return "no link"


def _of(record: Record, path: str, problem: str) -> Finding:
    return Finding(path, f"{problem}: it belongs to snapshot {record.info.name!r}", _PULL_AGAIN)


def _stranger(disk: Disk, name: str) -> Finding:
    path = f"{disk.snapshots}/{name}"
    if disk.is_kept(name):
        return Finding(path, "is newer than the database that was restored, which has no record of it", _NO_RECORD)
    return Finding(path, "is none of our directories", _NOT_OURS)
