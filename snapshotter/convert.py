"""Values of this package <-> messages of the API. Nothing is decided here."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from protos.containerd.services.snapshots.v1 import snapshots_pb2 as api
from protos.containerd.types import mount_pb2
from snapshotter.snapshots import Info, Kind, Mount

T = TypeVar("T")

_TO_API = {Kind.VIEW: api.VIEW, Kind.ACTIVE: api.ACTIVE, Kind.COMMITTED: api.COMMITTED}
_FROM_API = {number: kind for kind, number in _TO_API.items()}


def mounts_to_api(mounts: Sequence[Mount]) -> list[mount_pb2.Mount]:
    return [mount_pb2.Mount(type=m.type, source=m.source, options=m.options) for m in mounts]


def info_to_api(info: Info) -> api.Info:
    return api.Info(
        name=info.name,
        parent=info.parent,
        kind=_TO_API[info.kind],
        created_at=_timestamp(info.created),
        updated_at=_timestamp(info.updated),
        labels=info.labels,
    )


def info_from_api(info: api.Info) -> Info:
    """Of an Update request: its kind and times may be unset and are not used."""
    kind = _FROM_API.get(info.kind, Kind.COMMITTED)
    return Info(
        kind,
        info.name,
        info.parent,
        info.created_at.ToNanoseconds(),
        info.updated_at.ToNanoseconds(),
        dict(info.labels),
    )


def blocks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of `size`, the last one shorter."""
    iterator = iter(items)
    while block := list(islice(iterator, size)):
        yield block


def _timestamp(nanoseconds: int) -> Timestamp:
    return Timestamp(seconds=nanoseconds // 10**9, nanos=nanoseconds % 10**9)


def mounts_from_api(mounts: Iterable[mount_pb2.Mount]) -> tuple[Mount, ...]:
    return tuple(Mount(m.type, m.source, tuple(m.options)) for m in mounts)
