"""The contract of a snapshotter, and its values.

A snapshot is a root file system's state under a name. It is *active* (writable, named by a key), a *view* (an active
one that is only read) or *committed* (immutable, named by a name). Keys and names share one name space.

- Prepare and View make an active snapshot or a view on a committed parent, or on nothing ("").
- Commit turns an active snapshot into a committed one under a new name; the key is gone, labels are replaced.
- Remove takes any snapshot that has no children.
- Mounts says how to mount an active snapshot or a view. Nothing is mounted here: a mount is data.
- A Prepare whose labels ask for a layer that a repository has makes no active snapshot: the layer becomes a
  committed one, and the caller is told so by AlreadyExists.

Source: containerd, `core/snapshots/snapshotter.go`, and its service's observed answers.
"""

from collections.abc import Mapping
from enum import IntEnum

import msgspec


class Kind(IntEnum):
    """The numbers are those of the API's enum."""

    VIEW = 1
    ACTIVE = 2
    COMMITTED = 3

    @property
    def label(self) -> str:
        """The word that filters and tables use."""
        return self.name.lower()


class Info(msgspec.Struct, frozen=True):
    """What is known of a snapshot. Times are nanoseconds since 1970; `parent` is a name or ""."""

    kind: Kind
    name: str
    parent: str
    created: int
    updated: int
    labels: Mapping[str, str] = {}


class Usage(msgspec.Struct, frozen=True):
    """Disk that a snapshot takes by itself: bytes and inodes."""

    size: int = 0
    inodes: int = 0


class Mount(msgspec.Struct, frozen=True):
    """One mount(8): type, source, options; the target is the caller's."""

    type: str
    source: str
    options: tuple[str, ...] = ()
