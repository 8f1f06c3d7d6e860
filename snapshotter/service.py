"""containerd's snapshots API over a Snapshotter: a servicer without decisions, and the one place where an error
becomes a gRPC status."""

import logging
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import grpc
from google.protobuf.empty_pb2 import Empty

from cvmfsrepo import errors
from protos.containerd.services.snapshots.v1 import snapshots_pb2 as api
from protos.containerd.services.snapshots.v1.snapshots_pb2_grpc import SnapshotsServicer
from snapshotter import faults
from snapshotter.convert import blocks, info_from_api, info_to_api, mounts_to_api
from snapshotter.snapshotter import Snapshotter

_log = logging.getLogger(__name__)

LIST_BLOCK = 100
"""Infos in one message of a List stream, as in containerd."""

_CODES: dict[type[Exception], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.DataLoss: grpc.StatusCode.DATA_LOSS,
    errors.Unimplemented: grpc.StatusCode.UNIMPLEMENTED,
    errors.Internal: grpc.StatusCode.INTERNAL,
}

_Context = grpc.ServicerContext


class SnapshotsService(SnapshotsServicer):
    """One method a verb, each a translation."""

    def __init__(self, snapshotter: Snapshotter) -> None:
        self._snapshotter = snapshotter

    def Prepare(self, request: api.PrepareSnapshotRequest, context: _Context) -> api.PrepareSnapshotResponse:
        mounts = self._snapshotter.prepare(request.key, request.parent, dict(request.labels))
        return api.PrepareSnapshotResponse(mounts=mounts_to_api(mounts))

    def View(self, request: api.ViewSnapshotRequest, context: _Context) -> api.ViewSnapshotResponse:
        mounts = self._snapshotter.view(request.key, request.parent, dict(request.labels))
        return api.ViewSnapshotResponse(mounts=mounts_to_api(mounts))

    def Mounts(self, request: api.MountsRequest, context: _Context) -> api.MountsResponse:
        return api.MountsResponse(mounts=mounts_to_api(self._snapshotter.mounts(request.key)))

    def Commit(self, request: api.CommitSnapshotRequest, context: _Context) -> Empty:
        self._snapshotter.commit(request.name, request.key, dict(request.labels), request.parent)
        return Empty()

    def Remove(self, request: api.RemoveSnapshotRequest, context: _Context) -> Empty:
        self._snapshotter.remove(request.key)
        return Empty()

    def Stat(self, request: api.StatSnapshotRequest, context: _Context) -> api.StatSnapshotResponse:
        return api.StatSnapshotResponse(info=info_to_api(self._snapshotter.stat(request.key)))

    def Update(self, request: api.UpdateSnapshotRequest, context: _Context) -> api.UpdateSnapshotResponse:
        info = self._snapshotter.update(info_from_api(request.info), list(request.update_mask.paths))
        return api.UpdateSnapshotResponse(info=info_to_api(info))

    def List(self, request: api.ListSnapshotsRequest, context: _Context) -> Iterator[api.ListSnapshotsResponse]:
        for block in blocks(self._snapshotter.walk(request.filters), LIST_BLOCK):
            yield api.ListSnapshotsResponse(info=[info_to_api(info) for info in block])

    def Usage(self, request: api.UsageRequest, context: _Context) -> api.UsageResponse:
        usage = self._snapshotter.usage(request.key)
        return api.UsageResponse(size=usage.size, inodes=usage.inodes)

    def Cleanup(self, request: api.CleanupRequest, context: _Context) -> Empty:
        self._snapshotter.cleanup()
        return Empty()


class ErrorInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Turns what a verb raises into its status."""

    def __init__(self) -> None:
        self._guarded: dict[str, Any] = {}

    def intercept_service(self, continuation: Callable[..., Any], details: grpc.HandlerCallDetails) -> Any:
        """Asked at each call, and answers the same for a method each time."""
        known = self._guarded.get(details.method)
        if known is None and (handler := continuation(details)) is not None:
            known = self._guarded[details.method] = _guarded_handler(handler)
        return known


def _guarded_handler(handler: Any) -> Any:
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(
            _guarded_stream(handler.unary_stream), handler.request_deserializer, handler.response_serializer
        )
    return grpc.unary_unary_rpc_method_handler(
        _guarded(handler.unary_unary), handler.request_deserializer, handler.response_serializer
    )


def _guarded(call: Callable[[Any, _Context], Any]) -> Callable[[Any, _Context], Any]:
    def guarded(request: Any, context: _Context) -> Any:
        try:
            return call(request, context)
        except Exception as error:  # noqa: BLE001 - the interceptor's last line
            _abort(context, error)

    return guarded


def _guarded_stream(call: Callable[[Any, _Context], Iterator[Any]]) -> Callable[[Any, _Context], Iterator[Any]]:
    def guarded(request: Any, context: _Context) -> Iterator[Any]:
        try:
            yield from call(request, context)
        except Exception as error:  # noqa: BLE001 - the interceptor's last line
            _abort(context, error)

    return guarded


def _abort(context: _Context, error: Exception) -> NoReturn:
    known = faults.of_os(error) or error if isinstance(error, OSError) else error
    code = status_code(known)
    if code is grpc.StatusCode.INTERNAL:
        _log.error("internal error", exc_info=error)
    context.abort(code, str(known))


def status_code(error: Exception) -> grpc.StatusCode:
    """The gRPC code of an error; what we did not foresee is INTERNAL."""
    return _CODES.get(type(error), grpc.StatusCode.INTERNAL)
