"""The wire facts of the API definitions, and that the generated modules are those of the definitions."""

from pathlib import Path

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from protos.containerd.services.snapshots.v1 import snapshots_pb2
from protos.containerd.types import mount_pb2
from tools.generate_protos import REPOSITORY, generate, proto_files

MESSAGES = {
    "PrepareSnapshotRequest": {"snapshotter": 1, "key": 2, "parent": 3, "labels": 4},
    "PrepareSnapshotResponse": {"mounts": 1},
    "ViewSnapshotRequest": {"snapshotter": 1, "key": 2, "parent": 3, "labels": 4},
    "ViewSnapshotResponse": {"mounts": 1},
    "MountsRequest": {"snapshotter": 1, "key": 2},
    "MountsResponse": {"mounts": 1},
    "CommitSnapshotRequest": {"snapshotter": 1, "name": 2, "key": 3, "labels": 4, "parent": 5},
    "RemoveSnapshotRequest": {"snapshotter": 1, "key": 2},
    "StatSnapshotRequest": {"snapshotter": 1, "key": 2},
    "StatSnapshotResponse": {"info": 1},
    "UpdateSnapshotRequest": {"snapshotter": 1, "info": 2, "update_mask": 3},
    "UpdateSnapshotResponse": {"info": 1},
    "ListSnapshotsRequest": {"snapshotter": 1, "filters": 2},
    "ListSnapshotsResponse": {"info": 1},
    "UsageRequest": {"snapshotter": 1, "key": 2},
    "UsageResponse": {"size": 1, "inodes": 2},
    "CleanupRequest": {"snapshotter": 1},
    "Info": {"name": 1, "parent": 2, "kind": 3, "created_at": 4, "updated_at": 5, "labels": 6},
}

EMPTY = "google.protobuf.Empty"
METHODS = {
    "Prepare": ("PrepareSnapshotRequest", "PrepareSnapshotResponse", False),
    "View": ("ViewSnapshotRequest", "ViewSnapshotResponse", False),
    "Mounts": ("MountsRequest", "MountsResponse", False),
    "Commit": ("CommitSnapshotRequest", EMPTY, False),
    "Remove": ("RemoveSnapshotRequest", EMPTY, False),
    "Stat": ("StatSnapshotRequest", "StatSnapshotResponse", False),
    "Update": ("UpdateSnapshotRequest", "UpdateSnapshotResponse", False),
    "List": ("ListSnapshotsRequest", "ListSnapshotsResponse", True),
    "Usage": ("UsageRequest", "UsageResponse", False),
    "Cleanup": ("CleanupRequest", EMPTY, False),
}


def numbers(message: Descriptor) -> dict[str, int]:
    """The fields of a message and their numbers."""
    return {field.name: field.number for field in message.fields}


def test_regenerating_changes_nothing(tmp_path: Path) -> None:
    """The committed modules are what the definitions give, byte for byte, and none is left over."""
    expected = {path: (tmp_path / path).read_bytes() for path in generate(tmp_path)}
    committed = {
        path.relative_to(REPOSITORY): path.read_bytes()
        for path in (REPOSITORY / "protos").rglob("*_pb2*")
        if path.suffix in {".py", ".pyi"}
    }
    assert sorted(committed) == sorted(expected)
    assert [path for path in expected if committed[path] != expected[path]] == []


def test_every_definition_is_found() -> None:
    """The generator sees containerd's two files (and whatever else lies below protos/)."""
    names = {str(path) for path in proto_files()}
    assert {
        "protos/containerd/services/snapshots/v1/snapshots.proto",
        "protos/containerd/types/mount.proto",
    } <= names


def test_field_numbers_are_containerds() -> None:
    """Every message holds exactly containerd's fields under containerd's numbers."""
    messages = snapshots_pb2.DESCRIPTOR.message_types_by_name
    assert {name: numbers(message) for name, message in messages.items()} == MESSAGES
    assert numbers(mount_pb2.DESCRIPTOR.message_types_by_name["Mount"]) == {
        "type": 1,
        "source": 2,
        "target": 3,
        "options": 4,
    }


def test_service_and_package_names_are_containerds() -> None:
    """The names that travel come from `package`; the path of the files does not leak into them."""
    service = snapshots_pb2.DESCRIPTOR.services_by_name["Snapshots"]
    assert service.full_name == "containerd.services.snapshots.v1.Snapshots"
    assert mount_pb2.Mount.DESCRIPTOR.full_name == "containerd.types.Mount"
    prefix = "containerd.services.snapshots.v1."
    found = {
        method.name: (
            method.input_type.full_name.removeprefix(prefix),
            method.output_type.full_name.removeprefix(prefix),
            method.server_streaming,
        )
        for method in service.methods
    }
    assert found == METHODS


def test_kinds_are_containerds() -> None:
    """The enumeration's numbers travel, so they are fixed."""
    kinds = snapshots_pb2.DESCRIPTOR.enum_types_by_name["Kind"].values
    assert [(kind.name, kind.number) for kind in kinds] == [
        ("UNKNOWN", 0),
        ("VIEW", 1),
        ("ACTIVE", 2),
        ("COMMITTED", 3),
    ]


def test_types_that_travel_are_containerds() -> None:
    """Labels are maps, lists are repeated, sizes are 64 bits: a number alone would not say so."""
    field = snapshots_pb2.DESCRIPTOR.message_types_by_name
    labels = field["Info"].fields_by_name["labels"].message_type
    assert labels is not None
    assert labels.GetOptions().map_entry
    assert {f.name: f.type for f in field["UsageResponse"].fields} == {
        "size": FieldDescriptor.TYPE_INT64,
        "inodes": FieldDescriptor.TYPE_INT64,
    }
    for message, name in [
        ("PrepareSnapshotResponse", "mounts"),
        ("MountsResponse", "mounts"),
        ("ListSnapshotsRequest", "filters"),
        ("ListSnapshotsResponse", "info"),
    ]:
        assert field[message].fields_by_name[name].is_repeated


def test_bytes_on_the_wire() -> None:
    """A Commit with a parent, byte by byte: field 5 is what rebase needs and what proxies forget."""
    request = snapshots_pb2.CommitSnapshotRequest(name="n", key="k", parent="p")
    assert request.SerializeToString() == b"\x12\x01n" + b"\x1a\x01k" + b"\x2a\x01p"
