"""Everything that the commands show, as plain values: what travels, and what --json prints.

Field names are a contract with those who read the JSON, and equal those of admin.proto. Times are integer nanoseconds
since 1970, 0 where there is none; sizes are bytes, None where they are not known.
"""

from collections.abc import Mapping

import msgspec


class IndexStatus(msgspec.Struct, frozen=True):
    """What the index knows of one repository. `revision` is the one that it was last read at."""

    revision: int | None = None
    images: int = 0
    layers: int = 0
    malformed: int = 0
    complete: bool = False
    running: bool = False
    updated: int = 0
    problem: str = ""


class RepositoryStatus(msgspec.Struct, frozen=True):
    """`state` is the breaker's (healthy, degraded, open) since `since`; or, without a daemon, `answers` or a reason.
    `detail` says what went wrong last. `revision` is None where it is not a CVMFS mount, or not known yet."""

    name: str
    root: str
    state: str
    since: int = 0
    detail: str = ""
    revision: int | None = None
    index: IndexStatus | None = None


class SnapshotCounts(msgspec.Struct, frozen=True):
    """`remote` are committed ones that show a repository's layer, `local` those that were downloaded or built; `missed`
    are snapshots whose layer was wanted from a repository and not served."""

    active: int = 0
    views: int = 0
    remote: int = 0
    local: int = 0
    missed: int = 0


class DiskUse(msgspec.Struct, frozen=True):
    """`committed` is what the local committed snapshots took when they were committed; `active` what upper directories
    take now, None where it was not measured; the others are of the file system that holds the root."""

    committed: int = 0
    active: int | None = None
    shims: int = 0
    free: int = 0
    capacity: int = 0
    free_inodes: int = 0


class Served(msgspec.Struct, frozen=True):
    """Pulls' Prepares since the start: hits by repository, misses by reason, and the bytes that the hits spared (sizes
    of compressed layers), but for `unknown` hits whose layer's size is not known."""

    hits: Mapping[str, int] = {}
    misses: Mapping[str, int] = {}
    bytes_not_downloaded: int = 0
    unknown: int = 0


class Status(msgspec.Struct, frozen=True):
    """`running` is False where no daemon answered and this is what the disk says; `pid` is 0 then."""

    running: bool
    version: str
    root: str
    address: str
    pid: int = 0
    started: int = 0
    repositories: tuple[RepositoryStatus, ...] = ()
    snapshots: SnapshotCounts | None = None
    disk: DiskUse | None = None
    served: Served | None = None
    backup: int = 0
    problem: str = ""


class Snapshot(msgspec.Struct, frozen=True):
    """A record. The fields from `repository` on are those of a repository's layer; `miss` says why one was not
    served."""

    name: str
    kind: str
    parent: str = ""
    id: int = 0
    created: int = 0
    updated: int = 0
    labels: Mapping[str, str] = {}
    size: int = 0
    inodes: int = 0
    repository: str = ""
    layer: str = ""
    revision: int | None = None
    hide: str = ""
    white: str = ""
    miss: str = ""


class Shown(msgspec.Struct, frozen=True):
    """One snapshot of a chain and how it is shown: its lower directories, topmost first, what its `fs` links to (""
    for a local one), and what publication lost of the layer, None where that is not known."""

    snapshot: Snapshot
    lowers: tuple[str, ...] = ()
    link: str = ""
    losses: tuple[str, ...] = ()
    losses_known: bool = False


class MountPlan(msgspec.Struct, frozen=True):
    """One mount(8) without its target."""

    type: str
    source: str
    options: tuple[str, ...] = ()


class Explanation(msgspec.Struct, frozen=True):
    """A snapshot, its chain (itself first) and its mounts as they would be; `of_view` where it is committed and they
    are those of a view of it. `unreadable` says why a layer below cannot be read now."""

    chain: tuple[Shown, ...]
    mounts: tuple[MountPlan, ...] = ()
    of_view: bool = False
    unreadable: str = ""


class Problem(msgspec.Struct, frozen=True):
    """Something that is not as it should be, and what to do about it."""

    path: str
    problem: str
    remedy: str = ""


class Backup(msgspec.Struct, frozen=True):
    """A copy of the database: where it is, when it was made, and its size."""

    path: str
    written: int
    size: int = 0


class ImageFacts(msgspec.Struct, frozen=True):
    """An image that a repository holds, as the index read it. `layers` are digests, base first; `chains` their chain
    ids, empty where diff ids are not known. `first_seen` is when this node saw it first, at `first_revision`."""

    reference: str
    repository: str
    config: str = ""
    manifest: str = ""
    platform: str = ""
    layers: tuple[str, ...] = ()
    chains: tuple[str, ...] = ()
    first_revision: int | None = None
    first_seen: int = 0
    problem: str = ""


class LayerFacts(msgspec.Struct, frozen=True):
    """A layer that a repository holds. `size` is that of the compressed blob, `tar_size` of the tar; `markers` the
    number of its deletions."""

    digest: str
    repository: str
    diff_id: str = ""
    size: int | None = None
    tar_size: int | None = None
    markers: int | None = None
    first_revision: int | None = None
    first_seen: int = 0
    images: tuple[str, ...] = ()
    snapshots: tuple[str, ...] = ()
