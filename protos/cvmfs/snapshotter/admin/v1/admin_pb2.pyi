from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StatusRequest(_message.Message):
    __slots__ = ("measure",)
    MEASURE_FIELD_NUMBER: _ClassVar[int]
    measure: bool
    def __init__(self, measure: _Optional[bool] = ...) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("running", "version", "root", "address", "pid", "started", "repositories", "snapshots", "disk", "served", "backup", "problem")
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    REPOSITORIES_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    DISK_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    BACKUP_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    running: bool
    version: str
    root: str
    address: str
    pid: int
    started: int
    repositories: _containers.RepeatedCompositeFieldContainer[RepositoryStatus]
    snapshots: SnapshotCounts
    disk: DiskUse
    served: Served
    backup: int
    problem: str
    def __init__(self, running: _Optional[bool] = ..., version: _Optional[str] = ..., root: _Optional[str] = ..., address: _Optional[str] = ..., pid: _Optional[int] = ..., started: _Optional[int] = ..., repositories: _Optional[_Iterable[_Union[RepositoryStatus, _Mapping]]] = ..., snapshots: _Optional[_Union[SnapshotCounts, _Mapping]] = ..., disk: _Optional[_Union[DiskUse, _Mapping]] = ..., served: _Optional[_Union[Served, _Mapping]] = ..., backup: _Optional[int] = ..., problem: _Optional[str] = ...) -> None: ...

class RepositoryStatus(_message.Message):
    __slots__ = ("name", "root", "state", "since", "detail", "revision", "index")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    name: str
    root: str
    state: str
    since: int
    detail: str
    revision: int
    index: IndexStatus
    def __init__(self, name: _Optional[str] = ..., root: _Optional[str] = ..., state: _Optional[str] = ..., since: _Optional[int] = ..., detail: _Optional[str] = ..., revision: _Optional[int] = ..., index: _Optional[_Union[IndexStatus, _Mapping]] = ...) -> None: ...

class IndexStatus(_message.Message):
    __slots__ = ("revision", "images", "layers", "malformed", "complete", "running", "updated", "problem")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    MALFORMED_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    UPDATED_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    revision: int
    images: int
    layers: int
    malformed: int
    complete: bool
    running: bool
    updated: int
    problem: str
    def __init__(self, revision: _Optional[int] = ..., images: _Optional[int] = ..., layers: _Optional[int] = ..., malformed: _Optional[int] = ..., complete: _Optional[bool] = ..., running: _Optional[bool] = ..., updated: _Optional[int] = ..., problem: _Optional[str] = ...) -> None: ...

class SnapshotCounts(_message.Message):
    __slots__ = ("active", "views", "remote", "local", "missed")
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    VIEWS_FIELD_NUMBER: _ClassVar[int]
    REMOTE_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    active: int
    views: int
    remote: int
    local: int
    missed: int
    def __init__(self, active: _Optional[int] = ..., views: _Optional[int] = ..., remote: _Optional[int] = ..., local: _Optional[int] = ..., missed: _Optional[int] = ...) -> None: ...

class DiskUse(_message.Message):
    __slots__ = ("committed", "active", "shims", "free", "capacity", "free_inodes")
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    SHIMS_FIELD_NUMBER: _ClassVar[int]
    FREE_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    FREE_INODES_FIELD_NUMBER: _ClassVar[int]
    committed: int
    active: int
    shims: int
    free: int
    capacity: int
    free_inodes: int
    def __init__(self, committed: _Optional[int] = ..., active: _Optional[int] = ..., shims: _Optional[int] = ..., free: _Optional[int] = ..., capacity: _Optional[int] = ..., free_inodes: _Optional[int] = ...) -> None: ...

class Served(_message.Message):
    __slots__ = ("hits", "misses", "bytes_not_downloaded", "unknown")
    class HitsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class MissesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    HITS_FIELD_NUMBER: _ClassVar[int]
    MISSES_FIELD_NUMBER: _ClassVar[int]
    BYTES_NOT_DOWNLOADED_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    hits: _containers.ScalarMap[str, int]
    misses: _containers.ScalarMap[str, int]
    bytes_not_downloaded: int
    unknown: int
    def __init__(self, hits: _Optional[_Mapping[str, int]] = ..., misses: _Optional[_Mapping[str, int]] = ..., bytes_not_downloaded: _Optional[int] = ..., unknown: _Optional[int] = ...) -> None: ...

class ListRecordsRequest(_message.Message):
    __slots__ = ("filters",)
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    filters: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, filters: _Optional[_Iterable[str]] = ...) -> None: ...

class ListRecordsResponse(_message.Message):
    __slots__ = ("records",)
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[Snapshot]
    def __init__(self, records: _Optional[_Iterable[_Union[Snapshot, _Mapping]]] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("name", "kind", "parent", "id", "created", "updated", "labels", "size", "inodes", "repository", "layer", "revision", "hide", "white", "miss")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    UPDATED_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    INODES_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    HIDE_FIELD_NUMBER: _ClassVar[int]
    WHITE_FIELD_NUMBER: _ClassVar[int]
    MISS_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    parent: str
    id: int
    created: int
    updated: int
    labels: _containers.ScalarMap[str, str]
    size: int
    inodes: int
    repository: str
    layer: str
    revision: int
    hide: str
    white: str
    miss: str
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., parent: _Optional[str] = ..., id: _Optional[int] = ..., created: _Optional[int] = ..., updated: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., size: _Optional[int] = ..., inodes: _Optional[int] = ..., repository: _Optional[str] = ..., layer: _Optional[str] = ..., revision: _Optional[int] = ..., hide: _Optional[str] = ..., white: _Optional[str] = ..., miss: _Optional[str] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class Explanation(_message.Message):
    __slots__ = ("chain", "mounts", "of_view", "unreadable")
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    MOUNTS_FIELD_NUMBER: _ClassVar[int]
    OF_VIEW_FIELD_NUMBER: _ClassVar[int]
    UNREADABLE_FIELD_NUMBER: _ClassVar[int]
    chain: _containers.RepeatedCompositeFieldContainer[Shown]
    mounts: _containers.RepeatedCompositeFieldContainer[MountPlan]
    of_view: bool
    unreadable: str
    def __init__(self, chain: _Optional[_Iterable[_Union[Shown, _Mapping]]] = ..., mounts: _Optional[_Iterable[_Union[MountPlan, _Mapping]]] = ..., of_view: _Optional[bool] = ..., unreadable: _Optional[str] = ...) -> None: ...

class Shown(_message.Message):
    __slots__ = ("snapshot", "lowers", "link", "losses", "losses_known")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    LOWERS_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    LOSSES_KNOWN_FIELD_NUMBER: _ClassVar[int]
    snapshot: Snapshot
    lowers: _containers.RepeatedScalarFieldContainer[str]
    link: str
    losses: _containers.RepeatedScalarFieldContainer[str]
    losses_known: bool
    def __init__(self, snapshot: _Optional[_Union[Snapshot, _Mapping]] = ..., lowers: _Optional[_Iterable[str]] = ..., link: _Optional[str] = ..., losses: _Optional[_Iterable[str]] = ..., losses_known: _Optional[bool] = ...) -> None: ...

class MountPlan(_message.Message):
    __slots__ = ("type", "source", "options")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    type: str
    source: str
    options: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, type: _Optional[str] = ..., source: _Optional[str] = ..., options: _Optional[_Iterable[str]] = ...) -> None: ...

class FindingsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RepairRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Problems(_message.Message):
    __slots__ = ("problems",)
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    problems: _containers.RepeatedCompositeFieldContainer[Problem]
    def __init__(self, problems: _Optional[_Iterable[_Union[Problem, _Mapping]]] = ...) -> None: ...

class Problem(_message.Message):
    __slots__ = ("path", "problem", "remedy")
    PATH_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    path: str
    problem: str
    remedy: str
    def __init__(self, path: _Optional[str] = ..., problem: _Optional[str] = ..., remedy: _Optional[str] = ...) -> None: ...

class BackupRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BackupResponse(_message.Message):
    __slots__ = ("path", "written", "size")
    PATH_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    path: str
    written: int
    size: int
    def __init__(self, path: _Optional[str] = ..., written: _Optional[int] = ..., size: _Optional[int] = ...) -> None: ...

class ImagesRequest(_message.Message):
    __slots__ = ("pattern",)
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    pattern: str
    def __init__(self, pattern: _Optional[str] = ...) -> None: ...

class ImagesResponse(_message.Message):
    __slots__ = ("images",)
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedCompositeFieldContainer[ImageFacts]
    def __init__(self, images: _Optional[_Iterable[_Union[ImageFacts, _Mapping]]] = ...) -> None: ...

class ImageRequest(_message.Message):
    __slots__ = ("reference",)
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    reference: str
    def __init__(self, reference: _Optional[str] = ...) -> None: ...

class ImageFacts(_message.Message):
    __slots__ = ("reference", "repository", "config", "manifest", "platform", "layers", "chains", "first_revision", "first_seen", "problem")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    CHAINS_FIELD_NUMBER: _ClassVar[int]
    FIRST_REVISION_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEEN_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    reference: str
    repository: str
    config: str
    manifest: str
    platform: str
    layers: _containers.RepeatedScalarFieldContainer[str]
    chains: _containers.RepeatedScalarFieldContainer[str]
    first_revision: int
    first_seen: int
    problem: str
    def __init__(self, reference: _Optional[str] = ..., repository: _Optional[str] = ..., config: _Optional[str] = ..., manifest: _Optional[str] = ..., platform: _Optional[str] = ..., layers: _Optional[_Iterable[str]] = ..., chains: _Optional[_Iterable[str]] = ..., first_revision: _Optional[int] = ..., first_seen: _Optional[int] = ..., problem: _Optional[str] = ...) -> None: ...

class LayerRequest(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: str
    def __init__(self, digest: _Optional[str] = ...) -> None: ...

class LayersResponse(_message.Message):
    __slots__ = ("layers",)
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    layers: _containers.RepeatedCompositeFieldContainer[LayerFacts]
    def __init__(self, layers: _Optional[_Iterable[_Union[LayerFacts, _Mapping]]] = ...) -> None: ...

class LayerFacts(_message.Message):
    __slots__ = ("digest", "repository", "diff_id", "size", "tar_size", "markers", "first_revision", "first_seen", "images", "snapshots")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    DIFF_ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    TAR_SIZE_FIELD_NUMBER: _ClassVar[int]
    MARKERS_FIELD_NUMBER: _ClassVar[int]
    FIRST_REVISION_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEEN_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    digest: str
    repository: str
    diff_id: str
    size: int
    tar_size: int
    markers: int
    first_revision: int
    first_seen: int
    images: _containers.RepeatedScalarFieldContainer[str]
    snapshots: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, digest: _Optional[str] = ..., repository: _Optional[str] = ..., diff_id: _Optional[str] = ..., size: _Optional[int] = ..., tar_size: _Optional[int] = ..., markers: _Optional[int] = ..., first_revision: _Optional[int] = ..., first_seen: _Optional[int] = ..., images: _Optional[_Iterable[str]] = ..., snapshots: _Optional[_Iterable[str]] = ...) -> None: ...

class MalformedRequest(_message.Message):
    __slots__ = ("repository",)
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    repository: str
    def __init__(self, repository: _Optional[str] = ...) -> None: ...
