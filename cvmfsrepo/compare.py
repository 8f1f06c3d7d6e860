"""Two trees -> every difference between them.

Compared: names, types, modes, owners, sizes, times, device numbers, link targets, attributes, hard-link groups and
content. A name that a directory lists but that cannot be looked up is no entry: kernel overlayfs lists whiteouts in
directories that it does not merge.
"""

import os
import posixpath
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cvmfsrepo import xattrs
from cvmfsrepo.tree import Entry

Trees = Mapping[bytes, Entry]
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference at `path`: `field` is the attribute (`missing`, `extra`, `type`, `mode`, `uid`, `gid`, `size`,
    `mtime`, `device`, `target`, `xattrs`, `hard-links`, `content`), `expected` and `found` its values."""

    path: bytes
    field: str
    expected: object
    found: object

    def __str__(self) -> str:
        return f"/{os.fsdecode(self.path)}: {self.field}: expected {self.expected!r}, found {self.found!r}"


def scan(root: Path, progress: Callable[[int], object] = lambda entries: None) -> dict[bytes, Entry]:
    """Every entry below `root`, itself as b"". Hard-link groups are numbered in the order of their first paths."""
    base, links = os.fsencode(root), defaultdict[tuple[int, int], list[bytes]](list)
    entries = {b"": entry_at(base, b"")}
    for path in _walk(base, b""):
        try:
            entry, status = _entry(base, path)
        except FileNotFoundError:
            continue
        entries[path] = entry
        if status.st_nlink > 1 and not entry.is_directory:
            links[status.st_dev, status.st_ino].append(path)
        if len(entries) % 1000 == 0:
            progress(len(entries))
    groups = sorted(sorted(paths) for paths in links.values() if len(paths) > 1)
    for number, paths in enumerate(groups, 1):
        for path in paths:
            entries[path] = msgspec.structs.replace(entries[path], group=number)
    return entries


def entry_at(base: bytes, path: bytes) -> Entry:
    """The entry of one path below `base`; its hard-link group is not known from here."""
    return _entry(base, path)[0]


def differences(
    expected: Trees, found: Trees, *, ignore: Callable[[Entry, str], bool] = lambda entry, field: False
) -> Iterator[Difference]:
    """Differences of all but content, in the order of paths. `ignore(entry, field)` drops those not to be compared,
    such as the time of an implied directory; it is given the expected entry."""
    for path in sorted(expected.keys() | found.keys()):
        left, right = expected.get(path), found.get(path)
        if right is None and left is not None:
            yield Difference(path, "missing", _kind(left), None)
        elif left is None and right is not None:
            yield Difference(path, "extra", None, _kind(right))
        elif left is not None and right is not None:
            yield from (d for d in _attributes(left, right) if not ignore(left, d.field))
    yield from (d for d in _link_differences(expected, found) if not ignore(expected[d.path], d.field))


def content_differences(expected_root: Path, found_root: Path, paths: Iterable[bytes]) -> Iterator[Difference]:
    """Differences in the bytes of the regular files among `paths`, read from both trees."""
    left, right = os.fsencode(expected_root), os.fsencode(found_root)
    for path in paths:
        offset = _first_difference(posixpath.join(left, path), posixpath.join(right, path))
        if offset is not None:
            yield Difference(path, "content", f"the same bytes up to {offset}", f"another byte at {offset}")


def compare(
    expected_root: Path, found_root: Path, *, ignore: Callable[[Entry, str], bool] = lambda entry, field: False
) -> list[Difference]:
    """Every difference between two trees on disk, content included."""
    expected, found = scan(expected_root), scan(found_root)
    regular = [
        path for path, entry in sorted(expected.items())
        if stat.S_ISREG(entry.mode) and path in found and found[path].size == entry.size
        and stat.S_ISREG(found[path].mode)
    ]  # fmt: skip
    return [
        *differences(expected, found, ignore=ignore),
        *content_differences(expected_root, found_root, regular),
    ]


def _walk(base: bytes, directory: bytes) -> Iterator[bytes]:
    pending = [directory]
    while pending:
        current = pending.pop()
        with os.scandir(posixpath.join(base, current)) as names:
            for name in names:
                path = posixpath.join(current, name.name)
                yield path
                if name.is_dir(follow_symlinks=False):
                    pending.append(path)


def _entry(base: bytes, path: bytes) -> tuple[Entry, os.stat_result]:
    full = posixpath.join(base, path) if path else base
    status = os.lstat(full)
    mode = status.st_mode
    device = (os.major(status.st_rdev), os.minor(status.st_rdev))
    entry = Entry(
        path, mode, status.st_uid, status.st_gid, status.st_mtime_ns,
        size=status.st_size if stat.S_ISREG(mode) else 0,
        target=os.readlink(full) if stat.S_ISLNK(mode) else b"",
        device=device if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else (0, 0),
        xattrs=xattrs.read_all(full),
    )  # fmt: skip
    return entry, status


def _kind(entry: Entry) -> str:
    return stat.filemode(entry.mode)


def _attributes(left: Entry, right: Entry) -> Iterator[Difference]:
    if stat.S_IFMT(left.mode) != stat.S_IFMT(right.mode):
        yield Difference(left.path, "type", _kind(left), _kind(right))
        return
    if left.mode != right.mode:
        yield Difference(left.path, "mode", oct(stat.S_IMODE(left.mode)), oct(stat.S_IMODE(right.mode)))
    for field in ("uid", "gid", "size", "mtime", "device", "target", "xattrs"):
        expected, found = getattr(left, field), getattr(right, field)
        if expected != found:
            yield Difference(left.path, field, expected, found)


def _link_differences(expected: Trees, found: Trees) -> Iterator[Difference]:
    """Files of one hard-link group on one side that are not one group on the other."""
    left, right = _groups(expected), _groups(found)
    for path in sorted(left.keys() | right.keys()):
        if path in expected and path in found and left.get(path) != right.get(path):
            yield Difference(path, "hard-links", sorted(left.get(path, ())), sorted(right.get(path, ())))


def _groups(tree: Trees) -> dict[bytes, frozenset[bytes]]:
    members = defaultdict[int, set[bytes]](set)
    for path, entry in tree.items():
        if entry.group:
            members[entry.group].add(path)
    return {path: frozenset(group) for group in members.values() for path in group if len(group) > 1}


def _first_difference(left: bytes, right: bytes) -> int | None:
    offset = 0
    with open(left, "rb") as a, open(right, "rb") as b:  # buffered: only so is a short read the end of the file
        while True:
            one, two = a.read(_CHUNK), b.read(_CHUNK)
            if one != two:
                return offset + next(
                    (i for i, (x, y) in enumerate(zip(one, two, strict=False)) if x != y), min(len(one), len(two))
                )
            if not one:
                return None
            offset += len(one)
