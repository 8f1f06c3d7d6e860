"""A client of the admin service: the same questions as `admin.facts.Facts` answers, asked of a running daemon."""

import errno
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import grpc

from cvmfsrepo.errors import ContractError, FailedPrecondition, Internal, PermissionDenied, Unavailable
from protos.cvmfs.snapshotter.admin.v1 import admin_pb2 as api
from protos.cvmfs.snapshotter.admin.v1.admin_pb2_grpc import AdminStub
from snapshotter.admin import values
from snapshotter.admin.convert import from_message

_PATIENCE = 5.0
"""Seconds for the connection: a daemon that is alive takes it at once."""

_KINDS = {kind.__name__.upper(): kind for kind in ContractError.__subclasses__()}
"""Our errors, which have the names of gRPC's codes."""


class AdminClient:
    """One connection; a context manager. `timeout` is in seconds for each call. Raises what the service raises."""

    def __init__(self, address: Path, timeout: float = 60.0) -> None:
        self._channel = grpc.insecure_channel(
            f"unix:{quote(os.fsencode(address))}", options=[("grpc.max_receive_message_length", 64 << 20)]
        )
        self._stub: Any = AdminStub(self._channel)
        self._address, self._timeout = address, timeout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._channel.close()

    def status(self, measure: bool = False) -> values.Status:
        return from_message(self._call(self._stub.Status, api.StatusRequest(measure=measure)), values.Status)

    def walk(self, filters: Sequence[str] = ()) -> Iterator[values.Snapshot]:
        for block in self._stream(self._stub.ListRecords, api.ListRecordsRequest(filters=filters)):
            yield from (from_message(record, values.Snapshot) for record in block.records)

    def explain(self, name: str) -> values.Explanation:
        return from_message(self._call(self._stub.Explain, api.ExplainRequest(name=name)), values.Explanation)

    def findings(self) -> tuple[values.Problem, ...]:
        return _problems(self._call(self._stub.Findings, api.FindingsRequest()))

    def repair(self) -> tuple[values.Problem, ...]:
        return _problems(self._call(self._stub.Repair, api.RepairRequest()))

    def back_up(self) -> values.Backup:
        return from_message(self._call(self._stub.Backup, api.BackupRequest()), values.Backup)

    def walk_images(self, pattern: str = "") -> Iterator[values.ImageFacts]:
        for block in self._stream(self._stub.Images, api.ImagesRequest(pattern=pattern)):
            yield from (from_message(image, values.ImageFacts) for image in block.images)

    def get_image(self, reference: str) -> values.ImageFacts:
        return from_message(self._call(self._stub.Image, api.ImageRequest(reference=reference)), values.ImageFacts)

    def get_layers(self, digest: str) -> tuple[values.LayerFacts, ...]:
        found = self._call(self._stub.Layer, api.LayerRequest(digest=digest))
        return tuple(from_message(layer, values.LayerFacts) for layer in found.layers)

    def malformed(self, repository: str) -> tuple[values.Problem, ...]:
        return _problems(self._call(self._stub.Malformed, api.MalformedRequest(repository=repository)))

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise self._raised(error) from None

    def _stream(self, method: Any, request: Any) -> Iterator[Any]:
        try:
            yield from method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise self._raised(error) from None

    def _raised(self, error: grpc.RpcError) -> ContractError:
        """The service's error as it was raised there, with its own sentence."""
        code, text = error.code(), error.details() or "no detail"
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            problem = f"did not answer within {self._timeout:g} s"
            return Unavailable("daemon at", str(self._address), problem, "look at its log, and at the load of the node")
        found = _KINDS.get(code.name.replace("_", ""), Internal)("answer", code.name, text)
        found.args = (text,)
        return found


def is_served(address: Path) -> bool:
    """Whether a daemon listens there. PermissionDenied where that cannot be told, for the socket is root's."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PATIENCE)
        try:
            probe.connect(os.fspath(address))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR):
                return False
            if error.errno in (errno.EACCES, errno.EPERM):
                raise PermissionDenied("admin socket", str(address), "may not be opened", "run as root") from None
            raise FailedPrecondition("admin socket", str(address), f"cannot be used ({error})") from None
    return True


def _problems(message: api.Problems) -> tuple[values.Problem, ...]:
    return tuple(from_message(problem, values.Problem) for problem in message.problems)
