"""A client of containerd's own services, which only reads: values out, our errors raised."""

import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import grpc
from google.protobuf.empty_pb2 import Empty

from cvmfsrepo import errors
from protos.containerd.services.containers.v1 import containers_pb2
from protos.containerd.services.containers.v1.containers_pb2_grpc import ContainersStub
from protos.containerd.services.content.v1 import content_pb2
from protos.containerd.services.content.v1.content_pb2_grpc import ContentStub
from protos.containerd.services.images.v1 import images_pb2
from protos.containerd.services.images.v1.images_pb2_grpc import ImagesStub
from protos.containerd.services.introspection.v1 import introspection_pb2
from protos.containerd.services.introspection.v1.introspection_pb2_grpc import IntrospectionStub
from protos.containerd.services.namespaces.v1 import namespaces_pb2
from protos.containerd.services.namespaces.v1.namespaces_pb2_grpc import NamespacesStub
from protos.containerd.services.version.v1.version_pb2_grpc import VersionStub
from snapshotter.client import Client
from snapshotter.engineview import Container, EngineView, Image, Place, unpacked
from snapshotter.snapshots import Info

SOCKETS = (
    Path("/run/containerd/containerd.sock"),
    Path("/run/k3s/containerd/containerd.sock"),
    Path("/var/snap/microk8s/common/run/containerd.sock"),
)
"""Where containerd listens, in one distribution or another."""

_SNAPSHOTTER = "io.containerd.snapshotter.v1"
_GONE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


class Engine:
    """containerd behind a socket; a context manager. `timeout` is in seconds for each call. Unavailable where it does
    not answer, Internal where it refuses."""

    def __init__(self, address: Path, timeout: float = 60.0) -> None:
        self._address, self._timeout = address, timeout
        self._channel = grpc.insecure_channel(
            f"unix:{quote(os.fsencode(address))}", options=[("grpc.max_receive_message_length", 64 << 20)]
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._channel.close()

    def version(self) -> str:
        return str(self._call(VersionStub(self._channel).Version, Empty()).version)

    def snapshotters(self) -> Mapping[str, str]:
        """Names of all snapshotters, and the address of each that is behind a socket, "" for the others."""
        request = introspection_pb2.PluginsRequest(filters=[f"type=={_SNAPSHOTTER}"])
        plugins = self._call(IntrospectionStub(self._channel).Plugins, request).plugins
        return {plugin.id: plugin.exports.get("address", "") for plugin in plugins}

    def namespaces(self) -> tuple[str, ...]:
        answer = self._call(NamespacesStub(self._channel).List, namespaces_pb2.ListNamespacesRequest())
        return tuple(sorted(namespace.name for namespace in answer.namespaces))

    def walk_containers(self, namespace: str) -> Iterator[Container]:
        request = containers_pb2.ListContainersRequest()
        for message in self._stream(ContainersStub(self._channel).ListStream, request, namespace):
            one = message.container
            yield Container(namespace, one.id, one.image, one.snapshotter, one.snapshot_key, dict(one.labels))

    def walk_images(self, namespace: str) -> Iterator[Image]:
        """The images of a namespace, with where they were unpacked to."""
        images = self._call(ImagesStub(self._channel).List, images_pb2.ListImagesRequest(), namespace).images
        blobs = dict(self._walk_blobs(namespace)) if images else {}
        for image in images:
            yield Image(namespace, image.name, unpacked(image.target.digest, blobs))

    def walk_snapshots(self, namespace: str, snapshotter: str) -> Iterator[Info]:
        """What it knows of a snapshotter's, in a namespace, but for those that the snapshotter itself does not know."""
        with Client(self._address, snapshotter, namespace, self._timeout) as client:
            yield from client.walk()

    def _walk_blobs(self, namespace: str) -> Iterator[tuple[str, dict[str, str]]]:
        request = content_pb2.ListContentRequest()
        for block in self._stream(ContentStub(self._channel).List, request, namespace):
            yield from ((blob.digest, dict(blob.labels)) for blob in block.info)

    def _call(self, method: Any, request: Any, namespace: str = "") -> Any:
        try:
            return method(request, timeout=self._timeout, metadata=_metadata(namespace))
        except grpc.RpcError as error:
            raise self._raised(error) from None

    def _stream(self, method: Any, request: Any, namespace: str) -> Iterator[Any]:
        try:
            yield from method(request, timeout=self._timeout, metadata=_metadata(namespace))
        except grpc.RpcError as error:
            raise self._raised(error) from None

    def _raised(self, error: grpc.RpcError) -> errors.ContractError:
        said = error.details() or error.code().name
        if error.code() in _GONE:
            return errors.Unavailable(
                "containerd",
                str(self._address),
                f"does not answer ({said})",
                "start it, or name its socket: --containerd",
            )
        return errors.Internal("containerd", str(self._address), f"refuses ({error.code().name}: {said})")


def look(address: Path, ours: str, named: str = "", expected: str = "") -> EngineView:
    """Everything that a containerd says of the daemon that listens at `ours`.

    It is the snapshotter with that address in containerd's configuration, or the one that is `named`. Where there is
    none: FailedPrecondition, or what still refers to the `expected` name, if one is given."""
    with Engine(address) as engine:
        loaded = engine.snapshotters()
        names = _names(address, loaded, ours, named, expected)
        namespaces = engine.namespaces()
        containers = tuple(one for namespace in namespaces for one in engine.walk_containers(namespace))
        images = tuple(one for namespace in namespaces for one in engine.walk_images(namespace))
        snapshots, problem = _snapshots(engine, namespaces, [name for name in names if name in loaded])
        if not any(name in loaded for name in names):
            snapshots, problem = None, f"it has no snapshotter {names[0]!r}, nor one at {ours}"
        return EngineView(str(address), engine.version(), names, namespaces, containers, images, snapshots, problem)


def default_socket() -> Path:
    """The first of the usual sockets that is there."""
    return next((path for path in SOCKETS if path.exists()), SOCKETS[0])


def shares_processes(address: Path) -> bool:
    """Whether the process behind a socket is one that this process can see: then so are those that it started."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5)
        try:
            probe.connect(os.fspath(address))
        except OSError:
            return False
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return bool(struct.unpack("3i", credentials)[0])


def _names(address: Path, loaded: Mapping[str, str], ours: str, named: str, expected: str) -> tuple[str, ...]:
    if named:
        if named not in loaded and not expected:
            known = ", ".join(sorted(loaded))
            raise errors.FailedPrecondition(
                "containerd", str(address), f"has no snapshotter {named!r} (it has {known})"
            )
        return (named,)
    at_ours = tuple(name for name, where in loaded.items() if where and _path(where) == _path(ours))
    if at_ours:
        return at_ours
    if expected:
        return (expected,)
    raise errors.FailedPrecondition(
        "containerd", str(address), f"has no snapshotter at {ours}",
        "add it, as `cvmfs-snapshotter config containerd` says; or give --snapshotter NAME if it knows another path",
    )  # fmt: skip


def _path(address: str) -> str:
    return os.path.realpath(address.removeprefix("unix://"))


def _snapshots(
    engine: Engine, namespaces: Sequence[str], names: Sequence[str]
) -> tuple[Mapping[Place, Info] | None, str]:
    """None, and why, where the snapshotter behind containerd does not answer."""
    found = dict[Place, Info]()
    try:
        for name in names:
            for namespace in namespaces:
                for info in engine.walk_snapshots(namespace, name):
                    found[Place(name, namespace, info.name)] = info
    except errors.ContractError as error:
        return None, f"it cannot list the snapshots ({error.problem})"
    return found, ""


def _metadata(namespace: str) -> tuple[tuple[str, str], ...]:
    return (("containerd-namespace", namespace),) if namespace else ()
