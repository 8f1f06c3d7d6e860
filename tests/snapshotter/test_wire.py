"""The API on the wire, as other clients than ours see it: a raw stub on the daemon's socket."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.field_mask_pb2 import FieldMask

from protos.containerd.services.snapshots.v1 import snapshots_pb2 as api
from protos.containerd.services.snapshots.v1.snapshots_pb2_grpc import SnapshotsStub
from tests.snapshotter.daemon import Daemon

NAMESPACE = "containerd-namespace"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("wire")
    with Daemon(directory / "root", absolute_mountpoint=directory / "no-repository") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def channel(daemon: Daemon) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"unix:{daemon.address}") as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> Any:
    return SnapshotsStub(channel)


def code(call: Any, request: Any) -> tuple[grpc.StatusCode, str]:
    """Status and details of a call that must fail."""
    with pytest.raises(grpc.RpcError) as raised:
        call(request)
    error: Any = raised.value
    return error.code(), error.details()


def committed(stub: Any, name: str, parent: str = "") -> None:
    stub.Prepare(api.PrepareSnapshotRequest(key=f"{name}-key", parent=parent))
    stub.Commit(api.CommitSnapshotRequest(name=name, key=f"{name}-key"))


def test_calls_need_no_namespace_and_no_snapshotter_name(stub: Any) -> None:
    """containerd's garbage collector sends no header, and a client may call the plugin as its configuration does."""
    for number, metadata in enumerate([(), ((NAMESPACE, "k8s.io"),)]):
        name = f"plain-{number}"
        stub.Prepare(api.PrepareSnapshotRequest(snapshotter="any", key=name), metadata=metadata)
        assert stub.Stat(api.StatSnapshotRequest(key=name), metadata=metadata).info.name == name
        assert len(list(stub.List(api.ListSnapshotsRequest(filters=[f"name=={name}"]), metadata=metadata))) == 1
        assert stub.Remove(api.RemoveSnapshotRequest(snapshotter="", key=name), metadata=metadata) == Empty()
        assert stub.Cleanup(api.CleanupRequest(), metadata=metadata) == Empty()


def test_info_on_the_wire(stub: Any) -> None:
    """Kinds by containerd's numbers, times as timestamps, labels as they are."""
    committed(stub, "base")
    stub.Prepare(api.PrepareSnapshotRequest(key="active", parent="base", labels={"a": "1"}))
    stub.View(api.ViewSnapshotRequest(key="view"))
    active = stub.Stat(api.StatSnapshotRequest(key="active")).info
    assert (active.name, active.parent, active.kind, dict(active.labels)) == ("active", "base", 2, {"a": "1"})
    assert active.created_at == active.updated_at
    assert active.created_at.seconds > 1_700_000_000
    assert stub.Stat(api.StatSnapshotRequest(key="view")).info.kind == 1
    assert stub.Stat(api.StatSnapshotRequest(key="base")).info.kind == 3


def test_an_empty_mask_is_no_mask(stub: Any) -> None:
    """Both replace all labels."""
    stub.Prepare(api.PrepareSnapshotRequest(key="masked", labels={"a": "1"}))
    for number, mask in enumerate([None, FieldMask()]):
        info = api.Info(name="masked", labels={"n": str(number)})
        answer = stub.Update(api.UpdateSnapshotRequest(info=info, update_mask=mask)).info
        assert dict(answer.labels) == {"n": str(number)}


def test_list_streams_blocks_of_a_hundred(stub: Any) -> None:
    """As containerd's own server does; an empty list is an empty stream."""
    for number in range(250):
        stub.View(api.ViewSnapshotRequest(key=f"many-{number}", labels={"many": "1"}))
    blocks = list(stub.List(api.ListSnapshotsRequest(filters=["labels.many"])))
    assert [len(block.info) for block in blocks] == [100, 100, 50]
    assert [info.name for block in blocks for info in block.info] == [f"many-{number}" for number in range(250)]
    assert list(stub.List(api.ListSnapshotsRequest(filters=["name==none"]))) == []


def test_a_list_that_is_not_read_to_its_end(stub: Any) -> None:
    """A client that goes away costs nothing: the server's threads see later snapshots all the same."""
    stub.View(api.ViewSnapshotRequest(key="before"))
    for number in range(40):
        stream = stub.List(api.ListSnapshotsRequest())
        next(stream)
        stream.cancel()
        stub.View(api.ViewSnapshotRequest(key=f"after-{number}"))
        assert stub.Stat(api.StatSnapshotRequest(key=f"after-{number}")).info.kind == 1


def test_errors_are_codes_with_the_reason(stub: Any) -> None:
    """The code is containerd's, the details name the thing and its value."""
    committed(stub, "parent")
    stub.Prepare(api.PrepareSnapshotRequest(key="child", parent="parent"))
    prepare, mask = api.PrepareSnapshotRequest, FieldMask(paths=["name"])
    assert code(stub.Stat, api.StatSnapshotRequest(key="none")) == (
        grpc.StatusCode.NOT_FOUND,
        "snapshot 'none': does not exist",
    )
    for call, request, expected in (
        (stub.Prepare, prepare(key="child"), grpc.StatusCode.ALREADY_EXISTS),
        (stub.Prepare, prepare(key="x", parent="child"), grpc.StatusCode.INVALID_ARGUMENT),
        (stub.Mounts, api.MountsRequest(key="parent"), grpc.StatusCode.FAILED_PRECONDITION),
        (stub.Remove, api.RemoveSnapshotRequest(key="parent"), grpc.StatusCode.FAILED_PRECONDITION),
        (stub.Commit, api.CommitSnapshotRequest(name="n", key="none"), grpc.StatusCode.NOT_FOUND),
        (stub.Usage, api.UsageRequest(key="none"), grpc.StatusCode.NOT_FOUND),
        (
            stub.Update,
            api.UpdateSnapshotRequest(info=api.Info(name="child"), update_mask=mask),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
    ):
        assert code(call, request)[0] is expected, request
    status, details = code(lambda request: list(stub.List(request)), api.ListSnapshotsRequest(filters=["=bad"]))
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert "=bad" in details


def test_hostile_names_are_names(stub: Any, daemon: Daemon) -> None:
    """Keys are never joined to a path; a long one is cut in the error."""
    before = {path.name for path in daemon.root.parent.iterdir()}
    for key in ("../../x", "/etc/passwd", "a\0b", "new-x", "ü\n\x1b[0m", "'; DROP TABLE snapshots; --", "k" * 4096):
        stub.Prepare(api.PrepareSnapshotRequest(key=key))
        assert stub.Stat(api.StatSnapshotRequest(key=key)).info.name == key
        stub.Remove(api.RemoveSnapshotRequest(key=key))
        status, details = code(stub.Stat, api.StatSnapshotRequest(key=key))
        assert (status, len(details) < 400) == (grpc.StatusCode.NOT_FOUND, True)
    assert {path.name for path in daemon.root.parent.iterdir()} == before


def test_an_unknown_method(channel: grpc.Channel, stub: Any) -> None:
    """UNIMPLEMENTED, and the server goes on."""
    unknown = channel.unary_unary(
        "/containerd.services.snapshots.v1.Snapshots/Mend",
        request_serializer=lambda _: b"",
        response_deserializer=lambda data: data,
    )
    assert code(unknown, None)[0] is grpc.StatusCode.UNIMPLEMENTED
    assert stub.Cleanup(api.CleanupRequest()) == Empty()


def test_a_request_that_does_not_parse(channel: grpc.Channel, stub: Any) -> None:
    """An error for its caller alone."""
    garbled = channel.unary_unary(
        "/containerd.services.snapshots.v1.Snapshots/Stat",
        request_serializer=lambda _: b"\xff\xff\xff",
        response_deserializer=lambda data: data,
    )
    assert code(garbled, None)[0] is grpc.StatusCode.INTERNAL
    assert stub.Cleanup(api.CleanupRequest()) == Empty()


def test_labels_of_the_largest_size(stub: Any, daemon: Daemon) -> None:
    """containerd allows 4,096 bytes for a label; a list of such snapshots exceeds grpc's usual message of 4 MiB."""
    large = [("grpc.max_receive_message_length", 16 << 20)]
    labels = {f"containerd.io/snapshot/{number}": "v" * 4000 for number in range(12)}
    for number in range(100):
        stub.View(api.ViewSnapshotRequest(key=f"large-{number}", labels={**labels, "large": "1"}))
    with grpc.insecure_channel(f"unix:{daemon.address}", options=large) as channel:
        (block,) = SnapshotsStub(channel).List(api.ListSnapshotsRequest(filters=["labels.large"]))
    assert len(block.info) == 100
    assert dict(block.info[0].labels) == {**labels, "large": "1"}
    for info in block.info:  # other clients' messages are smaller
        stub.Remove(api.RemoveSnapshotRequest(key=info.name))


def test_sixteen_clients_at_once(stub: Any) -> None:
    """Whole cycles side by side, and one key wanted by all of them is given once."""
    start = threading.Barrier(16)

    def cycle(number: int) -> grpc.StatusCode:
        start.wait()
        contended = stub.Prepare.future(api.PrepareSnapshotRequest(key="contended")).exception()
        for turn in range(5):
            name = f"cycle-{number}-{turn}"
            committed(stub, name)
            stub.Prepare(api.PrepareSnapshotRequest(key=f"{name}-top", parent=name))
            stub.Mounts(api.MountsRequest(key=f"{name}-top"))
            stub.Remove(api.RemoveSnapshotRequest(key=f"{name}-top"))
            stub.Remove(api.RemoveSnapshotRequest(key=name))
        return contended.code() if contended else grpc.StatusCode.OK

    with ThreadPoolExecutor(16) as pool:
        codes = Counter(pool.map(cycle, range(16)))
    assert codes == {grpc.StatusCode.OK: 1, grpc.StatusCode.ALREADY_EXISTS: 15}


def test_the_sockets_modes(daemon: Daemon) -> None:
    """Nobody but the owner may call; the directory that was made for the socket is closed too."""
    modes = [path.stat().st_mode & 0o777 for path in (daemon.address, daemon.address.parent)]
    assert modes == [0o600, 0o700]
    assert [path.stat().st_mode & 0o777 for path in _private(daemon.root)] == [0o700] * 4


def _private(root: Path) -> list[Path]:
    return [root, root / "snapshots", root / "shims", root / "layers"]
