"""A stand-in for containerd: the services that we read, over a socket, with the answers that a test gives it."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from protos.containerd.services.containers.v1 import containers_pb2, containers_pb2_grpc
from protos.containerd.services.content.v1 import content_pb2, content_pb2_grpc
from protos.containerd.services.images.v1 import images_pb2, images_pb2_grpc
from protos.containerd.services.introspection.v1 import introspection_pb2, introspection_pb2_grpc
from protos.containerd.services.namespaces.v1 import namespaces_pb2, namespaces_pb2_grpc
from protos.containerd.services.snapshots.v1 import snapshots_pb2, snapshots_pb2_grpc
from protos.containerd.services.version.v1 import version_pb2, version_pb2_grpc
from protos.containerd.types.descriptor_pb2 import Descriptor
from snapshotter.convert import info_to_api
from snapshotter.snapshots import Info


@dataclass
class Known:
    """What it answers. `snapshots` maps namespaces to infos, None where the snapshotter does not answer; `images` maps
    names to the digest of their content, and `blobs` digests to labels; all images are in all namespaces."""

    snapshotters: Mapping[str, str]
    snapshots: Mapping[str, Sequence[Info]] | None = field(default_factory=dict)
    containers: Mapping[str, Sequence[containers_pb2.Container]] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    blobs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    namespaces: Sequence[str] = ("k8s.io",)


@contextmanager
def containerd(known: Known) -> Iterator[Path]:
    """Its socket."""
    directory = Path(tempfile.mkdtemp(prefix="ctrd-", dir="/tmp"))
    server = grpc.server(ThreadPoolExecutor(4))
    answers: Any = _Answers(known)
    containers_pb2_grpc.add_ContainersServicer_to_server(answers.containers, server)
    content_pb2_grpc.add_ContentServicer_to_server(answers.content, server)
    images_pb2_grpc.add_ImagesServicer_to_server(answers.images, server)
    introspection_pb2_grpc.add_IntrospectionServicer_to_server(answers.introspection, server)
    namespaces_pb2_grpc.add_NamespacesServicer_to_server(answers.namespaces, server)
    snapshots_pb2_grpc.add_SnapshotsServicer_to_server(answers.snapshots, server)
    version_pb2_grpc.add_VersionServicer_to_server(answers.version, server)
    server.add_insecure_port(f"unix:{directory}/c.sock")
    server.start()
    try:
        yield directory / "c.sock"
    finally:
        server.stop(0).wait()
        shutil.rmtree(directory)


class _Answers:
    """A servicer for each service: several have a method of the same name."""

    def __init__(self, known: Known) -> None:
        self.containers, self.content, self.images = _Containers(known), _Content(known), _Images(known)
        self.introspection, self.namespaces = _Introspection(known), _Namespaces(known)
        self.snapshots, self.version = _Snapshots(known), _Version()


def _namespace(context: grpc.ServicerContext) -> str:
    return str(dict(context.invocation_metadata()).get("containerd-namespace", ""))


class _Of:
    def __init__(self, known: Known) -> None:
        self.known = known


class _Containers(_Of, containers_pb2_grpc.ContainersServicer):
    def ListStream(self, request: Any, context: grpc.ServicerContext) -> Iterator[containers_pb2.ListContainerMessage]:
        for one in self.known.containers.get(_namespace(context), ()):
            yield containers_pb2.ListContainerMessage(container=one)


class _Content(_Of, content_pb2_grpc.ContentServicer):
    def List(self, request: Any, context: grpc.ServicerContext) -> Iterator[content_pb2.ListContentResponse]:
        for digest, labels in self.known.blobs.items():
            yield content_pb2.ListContentResponse(info=[content_pb2.Info(digest=digest, labels=labels)])


class _Images(_Of, images_pb2_grpc.ImagesServicer):
    def List(self, request: Any, context: grpc.ServicerContext) -> images_pb2.ListImagesResponse:
        images = [images_pb2.Image(name=name, target=Descriptor(digest=digest))
                  for name, digest in self.known.images.items()]  # fmt: skip
        return images_pb2.ListImagesResponse(images=images)


class _Introspection(_Of, introspection_pb2_grpc.IntrospectionServicer):
    def Plugins(self, request: introspection_pb2.PluginsRequest, context: Any) -> introspection_pb2.PluginsResponse:
        assert list(request.filters) == ["type==io.containerd.snapshotter.v1"]
        plugins = [introspection_pb2.Plugin(id=name, exports={"address": address} if address else {})
                   for name, address in self.known.snapshotters.items()]  # fmt: skip
        return introspection_pb2.PluginsResponse(plugins=plugins)


class _Namespaces(_Of, namespaces_pb2_grpc.NamespacesServicer):
    def List(self, request: Any, context: grpc.ServicerContext) -> namespaces_pb2.ListNamespacesResponse:
        found = [namespaces_pb2.Namespace(name=name) for name in self.known.namespaces]
        return namespaces_pb2.ListNamespacesResponse(namespaces=found)


class _Snapshots(_Of, snapshots_pb2_grpc.SnapshotsServicer):
    def List(self, request: Any, context: grpc.ServicerContext) -> Iterator[snapshots_pb2.ListSnapshotsResponse]:
        if self.known.snapshots is None:
            context.abort(grpc.StatusCode.UNAVAILABLE, "connection error")
        for info in self.known.snapshots.get(_namespace(context), ()):
            yield snapshots_pb2.ListSnapshotsResponse(info=[info_to_api(info)])


class _Version(version_pb2_grpc.VersionServicer):
    def Version(self, request: Any, context: grpc.ServicerContext) -> version_pb2.VersionResponse:
        return version_pb2.VersionResponse(version="1.7.0", revision="abc")
