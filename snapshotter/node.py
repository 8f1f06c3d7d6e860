"""The parts of an open node, for whoever needs more of it than the verbs."""

from collections.abc import Sequence
from dataclasses import dataclass

from cvmfsrepo.guarded import GuardedRepository
from snapshotter.backup import Backups
from snapshotter.config import Config
from snapshotter.disk import Disk
from snapshotter.index.store import Index
from snapshotter.metastore import Metastore
from snapshotter.mounts import MountOptions
from snapshotter.remote import RemoteLayers
from snapshotter.shimstore import ShimStore
from snapshotter.snapshotter import Snapshotter


@dataclass(frozen=True, slots=True)
class Node:
    """What a command may look at when no daemon runs; `index` is None where none is kept."""

    config: Config
    store: Metastore
    disk: Disk
    shims: ShimStore
    repositories: Sequence[GuardedRepository]
    remote: RemoteLayers
    options: MountOptions
    index: Index | None


@dataclass(frozen=True, slots=True)
class RunningNode(Node):
    """A daemon's."""

    verbs: Snapshotter
    backups: Backups
