"""containerd's snapshots API over a Snapshotter: a servicer without decisions, and the one place where an error
becomes a gRPC status."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, Protocol

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

_VERBS = "/containerd.services.snapshots.v1.Snapshots/"

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


class Observer(Protocol):
    """Told of each call: its verb, its code and the seconds that it took; of a stream when it ends."""

    def __call__(self, verb: str, code: str, seconds: float, /) -> object: ...


def unobserved(verb: str, code: str, seconds: float, /) -> None:
    """Where nobody counts."""


class ErrorInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Turns what a verb raises into its status."""

    def __init__(self, observe: Observer = unobserved) -> None:
        self._observe = observe
        self._guarded: dict[str, Any] = {}

    def intercept_service(self, continuation: Callable[..., Any], details: grpc.HandlerCallDetails) -> Any:
        """Asked at each call, and answers the same for a method each time."""
        known = self._guarded.get(details.method)
        if known is None and (handler := continuation(details)) is not None:
            known = self._guarded[details.method] = self._guarded_handler(details.method, handler)
        return known

    def _guarded_handler(self, method: str, handler: Any) -> Any:
        """Only verbs are observed: the daemon asks itself for its health all the time."""
        verb = method.removeprefix(_VERBS) if method.startswith(_VERBS) else ""

        def guarded(request: Any, context: _Context) -> Any:
            with self._answering(verb, context):
                return handler.unary_unary(request, context)

        def guarded_stream(request: Any, context: _Context) -> Iterator[Any]:
            with self._answering(verb, context):
                yield from handler.unary_stream(request, context)

        serializers = handler.request_deserializer, handler.response_serializer
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(guarded_stream, *serializers)
        return grpc.unary_unary_rpc_method_handler(guarded, *serializers)

    @contextlib.contextmanager
    def _answering(self, verb: str, context: _Context) -> Iterator[None]:
        began, code = time.perf_counter(), "OK"
        try:
            yield
        except GeneratorExit:
            code = grpc.StatusCode.CANCELLED.name
            raise
        except Exception as error:  # noqa: BLE001 - the interceptor's last line
            known = (faults.of_os(error) or error) if isinstance(error, OSError) else error
            code = status_code(known).name
            _abort(context, error, known)
        finally:
            if verb:
                self._observe(verb, code, time.perf_counter() - began)


def _abort(context: _Context, error: Exception, known: Exception) -> NoReturn:
    code = status_code(known)
    if code is grpc.StatusCode.INTERNAL:
        _log.error("internal error", exc_info=error)
    context.abort(code, str(known))


def status_code(error: Exception) -> grpc.StatusCode:
    """The gRPC code of an error; what we did not foresee is INTERNAL."""
    return _CODES.get(type(error), grpc.StatusCode.INTERNAL)
