"""A client of the snapshots API, for the node commands and the tests: values in, values out, our errors raised."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from cvmfsrepo import errors
from protos.containerd.services.snapshots.v1 import snapshots_pb2 as api
from protos.containerd.services.snapshots.v1.snapshots_pb2_grpc import SnapshotsStub
from snapshotter.convert import info_from_api, mounts_from_api
from snapshotter.snapshots import Info, Mount, Usage

_ERRORS: dict[grpc.StatusCode, type[errors.ContractError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidArgument,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.ALREADY_EXISTS: errors.AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: errors.FailedPrecondition,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.ResourceExhausted,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.DATA_LOSS: errors.DataLoss,
    grpc.StatusCode.UNIMPLEMENTED: errors.Unimplemented,
}


class Client:
    """The ten verbs over a socket: our own, or containerd's with the name of one of its snapshotters and a
    containerd `namespace`. `timeout` is in seconds and holds for each call."""

    def __init__(
        self, address: Path | str, snapshotter: str = "cvmfs-snapshotter", namespace: str = "", timeout: float = 60.0
    ) -> None:
        self._channel = grpc.insecure_channel(
            f"unix:{quote(os.fsencode(address))}", options=[("grpc.max_receive_message_length", 16 << 20)]
        )
        self._stub: Any = SnapshotsStub(self._channel)
        self._name, self._timeout = snapshotter, timeout
        self._metadata = (("containerd-namespace", namespace),) if namespace else ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._channel.close()

    def prepare(self, key: str, parent: str, labels: Mapping[str, str]) -> tuple[Mount, ...]:
        request = api.PrepareSnapshotRequest(snapshotter=self._name, key=key, parent=parent, labels=labels)
        return mounts_from_api(self._call(self._stub.Prepare, request).mounts)

    def view(self, key: str, parent: str, labels: Mapping[str, str]) -> tuple[Mount, ...]:
        request = api.ViewSnapshotRequest(snapshotter=self._name, key=key, parent=parent, labels=labels)
        return mounts_from_api(self._call(self._stub.View, request).mounts)

    def mounts(self, key: str) -> tuple[Mount, ...]:
        return mounts_from_api(self._call(self._stub.Mounts, api.MountsRequest(snapshotter=self._name, key=key)).mounts)

    def commit(self, name: str, key: str, labels: Mapping[str, str], parent: str = "") -> None:
        request = api.CommitSnapshotRequest(snapshotter=self._name, name=name, key=key, labels=labels, parent=parent)
        self._call(self._stub.Commit, request)

    def remove(self, key: str) -> None:
        self._call(self._stub.Remove, api.RemoveSnapshotRequest(snapshotter=self._name, key=key))

    def stat(self, key: str) -> Info:
        return info_from_api(self._call(self._stub.Stat, api.StatSnapshotRequest(snapshotter=self._name, key=key)).info)

    def update(self, info: Info, paths: Sequence[str]) -> Info:
        message = api.Info(name=info.name, parent=info.parent, labels=info.labels)
        mask = FieldMask(paths=paths) if paths else None
        request = api.UpdateSnapshotRequest(snapshotter=self._name, info=message, update_mask=mask)
        return info_from_api(self._call(self._stub.Update, request).info)

    def walk(self, filters: Sequence[str] = ()) -> Iterator[Info]:
        request = api.ListSnapshotsRequest(snapshotter=self._name, filters=filters)
        try:
            for block in self._stub.List(request, timeout=self._timeout, metadata=self._metadata):
                yield from map(info_from_api, block.info)
        except grpc.RpcError as error:
            raise _error(error) from None

    def usage(self, key: str) -> Usage:
        answer = self._call(self._stub.Usage, api.UsageRequest(snapshotter=self._name, key=key))
        return Usage(answer.size, answer.inodes)

    def cleanup(self) -> None:
        self._call(self._stub.Cleanup, api.CleanupRequest(snapshotter=self._name))

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=self._timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _error(error) from None


def _error(error: grpc.RpcError) -> errors.ContractError:
    code: grpc.StatusCode = error.code()
    kind = _ERRORS.get(code, errors.Internal)
    return kind("answer", code.name, error.details() or "no detail")
