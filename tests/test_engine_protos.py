"""The wire facts of the services of containerd that are read, and that no more of them is defined than is read."""

from types import ModuleType

import pytest
from google.protobuf.descriptor import FieldDescriptor

from protos.containerd.services.containers.v1 import containers_pb2
from protos.containerd.services.content.v1 import content_pb2
from protos.containerd.services.images.v1 import images_pb2
from protos.containerd.services.introspection.v1 import introspection_pb2
from protos.containerd.services.namespaces.v1 import namespaces_pb2
from protos.containerd.services.version.v1 import version_pb2
from protos.containerd.types import descriptor_pb2

SERVICES = {
    "containers.v1.Containers": (containers_pb2, "ListStream", "ListContainersRequest", "ListContainerMessage", True),
    "content.v1.Content": (content_pb2, "List", "ListContentRequest", "ListContentResponse", True),
    "images.v1.Images": (images_pb2, "List", "ListImagesRequest", "ListImagesResponse", False),
    "introspection.v1.Introspection": (introspection_pb2, "Plugins", "PluginsRequest", "PluginsResponse", False),
    "namespaces.v1.Namespaces": (namespaces_pb2, "List", "ListNamespacesRequest", "ListNamespacesResponse", False),
    "version.v1.Version": (version_pb2, "Version", "Empty", "VersionResponse", False),
}

MESSAGES = {
    containers_pb2: {
        "Container": {"id": 1, "labels": 2, "image": 3, "snapshotter": 6, "snapshot_key": 7},
        "ListContainersRequest": {"filters": 1},
        "ListContainerMessage": {"container": 1},
    },
    content_pb2: {
        "Info": {"digest": 1, "size": 2, "labels": 5},
        "ListContentRequest": {"filters": 1},
        "ListContentResponse": {"info": 1},
    },
    images_pb2: {
        "Image": {"name": 1, "labels": 2, "target": 3},
        "ListImagesRequest": {"filters": 1},
        "ListImagesResponse": {"images": 1},
    },
    introspection_pb2: {
        "Plugin": {"type": 1, "id": 2, "exports": 5, "capabilities": 6},
        "PluginsRequest": {"filters": 1},
        "PluginsResponse": {"plugins": 1},
    },
    namespaces_pb2: {
        "Namespace": {"name": 1, "labels": 2},
        "ListNamespacesRequest": {"filter": 1},
        "ListNamespacesResponse": {"namespaces": 1},
    },
    version_pb2: {"VersionResponse": {"version": 1, "revision": 2}},
    descriptor_pb2: {"Descriptor": {"media_type": 1, "digest": 2, "size": 3, "annotations": 5}},
}


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_containerds(name: str) -> None:
    """Each has the one method that is called, under its full name, with its messages."""
    module, method, request, response, is_stream = SERVICES[name]
    service = module.DESCRIPTOR.services_by_name[name.rpartition(".")[2]]
    assert service.full_name == f"containerd.services.{name}"
    (found,) = service.methods
    assert (found.name, found.input_type.name, found.output_type.name) == (method, request, response)
    assert found.server_streaming is is_stream


@pytest.mark.parametrize("module", MESSAGES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_field_numbers_are_containerds(module: ModuleType) -> None:
    """Numbers are what travels; fields that are not read are left out."""
    found = {
        name: {field.name: field.number for field in message.fields}
        for name, message in module.DESCRIPTOR.message_types_by_name.items()
    }
    assert found == MESSAGES[module]


def test_maps_are_maps() -> None:
    """A number alone would not say so."""
    for module, message, field in (
        (containers_pb2, "Container", "labels"),
        (content_pb2, "Info", "labels"),
        (introspection_pb2, "Plugin", "exports"),
    ):
        found = module.DESCRIPTOR.message_types_by_name[message].fields_by_name[field]
        assert found.type == FieldDescriptor.TYPE_MESSAGE
        assert found.message_type.GetOptions().map_entry
