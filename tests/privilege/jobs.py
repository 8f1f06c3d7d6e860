"""What the daemon has to do to files that are not root's: each job ends quietly, or says what went wrong."""

import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cvmfsrepo.errors import AlreadyExists, PermissionDenied
from snapshotter import labels as label
from snapshotter.client import Client
from snapshotter.snapshots import Mount
from tests.snapshotter.layers import HandMade, lookup, pull
from tests.suites.contract import committed, fresh, upper_of

USER, OTHER = 1000, 2000
_ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in [(1, 7, 0xFFFFFFFF), (2, 5, 1234), (4, 5, 0xFFFFFFFF), (0x10, 5, 0xFFFFFFFF), (0x20, 5, 0xFFFFFFFF)]
)


@dataclass(frozen=True)
class Scene:
    """A running daemon, the repository that it serves, and its files as seen from here (`prefix` before a path)."""

    client: Client
    repository: HandMade
    root: Path
    prefix: str = ""

    def upper(self, mounts: tuple[Mount, ...]) -> Path:
        return Path(f"{self.prefix}{upper_of(mounts)}")

    def hide_shim(self, word: str, change: Callable[[Path], object]) -> Path:
        """The shim above a new layer, whose directory `d`, with a marker in it, was changed before."""
        layer = self.repository.add(word, {"d/.wh.gone": "", "d/file": ""})
        change(self.repository.layout.layerfs(layer) / "d")
        before = self._numbers()
        key = fresh("extract")
        try:
            self.client.prepare(key, "", pull(word, layer))
        except AlreadyExists:
            pass
        else:
            raise AssertionError(self.client.stat(key).labels[label.MISS])
        (number,) = self._numbers() - before
        assert lookup(self.client, word, "")
        return self.root / "snapshots" / number / "h"

    def foreign_tree(self) -> tuple[str, Path]:
        """Key and upper directory of an active snapshot in which containers of several users have left files."""
        key = fresh("key")
        upper = self.upper(self.client.prepare(key, "", {}))
        private = upper / "private" / "below"
        private.mkdir(parents=True)
        (private / "file").write_text("x" * 10_000)
        for path in (private / "file", private, private.parent):
            os.chown(path, USER, USER)
            path.chmod(0o700 if path.is_dir() else 0o600)
        return key, upper

    def _numbers(self) -> set[str]:
        return set(os.listdir(self.root / "snapshots"))


def shim_of_a_foreign_owner(scene: Scene) -> None:
    """A directory of another user is that user's in the shim."""
    shim = scene.hide_shim("owner", lambda path: os.chown(path, USER, OTHER))
    assert ((shim / "d").stat().st_uid, (shim / "d").stat().st_gid) == (USER, OTHER)


def shim_of_a_setgid_directory(scene: Scene) -> None:
    """A directory that gives its group on keeps doing so, without a word lost: chmod(2) drops the bit silently."""
    shim = scene.hide_shim("setgid", lambda path: _give(path, 0, OTHER, 0o2750))
    assert oct((shim / "d").stat().st_mode) == "0o42750"


def shim_with_attributes(scene: Scene) -> None:
    """Mode, time, attributes and access list of another user's directory."""

    def change(path: Path) -> None:
        os.setxattr(path, "user.one", b"1")
        os.setxattr(path, "system.posix_acl_access", _ACL)
        os.chown(path, USER, USER)
        os.utime(path, ns=(1, 123_456_789))

    found = scene.hide_shim("attributes", change) / "d"
    assert (os.getxattr(found, "user.one"), os.getxattr(found, "system.posix_acl_access")) == (b"1", _ACL)
    assert found.stat().st_mtime_ns == 123_456_789


def walk_of_a_private_directory(scene: Scene) -> None:
    """Markers in a directory that only another user may read."""
    shim = scene.hide_shim("private", lambda path: _give(path, USER, USER, 0o700))
    assert (shim / "d" / ".wh.gone").is_char_device()


def upper_on_a_foreign_root(scene: Scene) -> None:
    """The root directory of an image may belong to anyone; a container's starts as the image's."""
    key, name = fresh("extract"), fresh("layer")
    upper = scene.upper(scene.client.prepare(key, "", {}))
    os.chown(upper, USER, OTHER)
    upper.chmod(0o2755)
    scene.client.commit(name, key, {})
    made = scene.upper(scene.client.prepare(fresh("key"), name, {})).stat()
    assert (made.st_uid, made.st_gid, oct(made.st_mode)) == (USER, OTHER, "0o42755")


def usage_of_a_foreign_tree(scene: Scene) -> None:
    """Counted whole."""
    key, _ = scene.foreign_tree()
    assert scene.client.usage(key).inodes == 4


def commit_of_a_foreign_tree(scene: Scene) -> None:
    """Counted whole, and committed."""
    key, _ = scene.foreign_tree()
    name = fresh("layer")
    scene.client.commit(name, key, {})
    assert scene.client.usage(name).inodes == 4


def removal_of_a_foreign_tree(scene: Scene) -> None:
    """Nothing stays on the disk."""
    key, upper = scene.foreign_tree()
    scene.client.remove(key)
    assert not upper.parent.exists()


def removal_of_a_work_directory(scene: Scene) -> None:
    """Overlayfs leaves a directory of mode 0 in it."""
    key = fresh("key")
    upper = scene.upper(scene.client.prepare(key, committed(scene.client), {}))
    (upper.parent / "work" / "work").mkdir()
    (upper.parent / "work" / "work" / "#1").mkdir()
    (upper.parent / "work" / "work").chmod(0)
    scene.client.remove(key)
    assert not upper.parent.exists()


def removal_of_a_sticky_directory(scene: Scene) -> None:
    """Files of one user in a directory of another from which only owners may remove."""
    key = fresh("key")
    upper = scene.upper(scene.client.prepare(key, "", {}))
    sticky = upper / "tmp"
    sticky.mkdir()
    (sticky / "file").touch()
    os.chown(sticky / "file", OTHER, OTHER)
    os.chown(sticky, USER, USER)
    sticky.chmod(0o1777)
    scene.client.remove(key)
    assert not upper.parent.exists()


def _give(path: Path, user: int, group: int, mode: int) -> None:
    os.chown(path, user, group)
    path.chmod(mode)


JOBS: Mapping[str, Callable[[Scene], None]] = {
    job.__name__: job
    for job in (
        shim_of_a_foreign_owner, shim_of_a_setgid_directory, shim_with_attributes, walk_of_a_private_directory,
        upper_on_a_foreign_root, usage_of_a_foreign_tree, commit_of_a_foreign_tree, removal_of_a_foreign_tree,
        removal_of_a_work_directory, removal_of_a_sticky_directory,
    )
}  # fmt: skip

NEEDS: Mapping[str, frozenset[str]] = {
    "chown": frozenset(
        {"shim_of_a_foreign_owner", "shim_of_a_setgid_directory", "shim_with_attributes",
         "walk_of_a_private_directory", "upper_on_a_foreign_root"}
    ),
    "dac_override": frozenset(
        {"walk_of_a_private_directory", "shim_with_attributes", "usage_of_a_foreign_tree", "commit_of_a_foreign_tree",
         "removal_of_a_foreign_tree", "removal_of_a_work_directory"}
    ),
    "fowner": frozenset(
        {"shim_of_a_foreign_owner", "shim_with_attributes", "walk_of_a_private_directory", "upper_on_a_foreign_root",
         "removal_of_a_sticky_directory"}
    ),
    "fsetid": frozenset({"shim_of_a_setgid_directory", "upper_on_a_foreign_root"}),
}  # fmt: skip
"""The jobs that each capability is needed for: without it these fail, and no others."""


def failures(scene: Scene) -> dict[str, str]:
    """The jobs that go wrong, and how."""
    found = {}
    for name, job in JOBS.items():
        try:
            job(scene)
        except (AssertionError, PermissionDenied) as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found
