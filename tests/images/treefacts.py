"""Everything that can be seen of a tree, as plain values; independent of the project's own comparator."""

import hashlib
import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Facts:
    """One entry; `links` are the other names of the same file within the tree, `device` is 0:0 but for devices."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int | None
    target: str
    device: tuple[int, int]
    content: str
    xattrs: tuple[tuple[str, bytes], ...]
    links: tuple[str, ...]


Tree = dict[str, Facts]


def read_tree(root: Path, undated: Collection[str] = ()) -> Tree:
    """Every entry by its path below `root`, the root as `.`; directories in `undated` have no mtime.

    A name that is listed and not found is no entry: overlayfs lists a whiteout in a directory that only one
    layer has, and then denies that it exists.
    """
    names = ["."]
    for folder, directories, files in os.walk(root):
        paths = [os.path.join(folder, name) for name in (*directories, *files)]
        names += [os.path.relpath(path, root) for path in paths if os.path.lexists(path)]
    inodes: dict[tuple[int, int], list[str]] = {}
    for name in sorted(names):
        status = os.lstat(root / name)
        if not stat.S_ISDIR(status.st_mode):
            inodes.setdefault((status.st_dev, status.st_ino), []).append(name)
    groups = {name: tuple(group) for group in inodes.values() for name in group}
    return {name: _facts(root / name, name, undated, groups) for name in sorted(names)}


def differences(expected: Tree, found: Tree) -> list[str]:
    """One line for each path that is not the same in both."""
    lines = []
    for name in sorted(expected.keys() | found.keys()):
        one, other = expected.get(name), found.get(name)
        if one != other:
            lines.append(f"{name!r}: expected {one}, found {other}")
    return lines


def _facts(path: Path, name: str, undated: Collection[str], groups: dict[str, tuple[str, ...]]) -> Facts:
    status = os.lstat(path)
    mode = status.st_mode
    is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
    return Facts(
        kind=stat.filemode(mode)[0],
        mode=stat.S_IMODE(mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=None if name in undated else status.st_mtime_ns,
        target=os.readlink(path) if stat.S_ISLNK(mode) else "",
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if is_device else (0, 0),
        content=hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(mode) else "",
        xattrs=tuple(sorted((key, os.getxattr(path, key, follow_symlinks=False)) for key in _xattr_names(path))),
        links=groups.get(name, ()),
    )


def _xattr_names(path: Path) -> list[str]:
    """Without overlayfs's own marks, which the kernel hides on a mount and an upper directory shows."""
    return [key for key in os.listxattr(path, follow_symlinks=False) if not key.startswith("trusted.overlay.")]
