"""Clients and clocks that misbehave: an error for the caller alone, and the next one is served as before."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from cvmfsrepo.errors import NotFound
from snapshotter.client import Client
from snapshotter.convert import info_to_api
from snapshotter.snapshots import Info, Kind
from snapshotter.snapshotter import Snapshotter
from tests.snapshotter.daemon import Daemon
from tests.snapshotter.nodes import eventually

SERVICE = "/containerd.services.snapshots.v1.Snapshots"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes.fromhex("000000040000000000")
HEADERS_CUT_SHORT = bytes.fromhex("0000500104000000018386")
"""The head of a HEADERS frame of 80 bytes, and two of them."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("clients")
    with Daemon(directory / "root", absolute_mountpoint=directory / "no-repository") as daemon:
        yield daemon


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client() as client:
        yield client


def raw_call(daemon: Daemon, verb: str, request: bytes) -> grpc.StatusCode:
    """The status of a call whose request is these bytes, whatever they are."""
    with grpc.insecure_channel(f"unix:{daemon.address}") as channel:
        call: Any = channel.unary_unary(
            f"{SERVICE}/{verb}", request_serializer=lambda data: data, response_deserializer=lambda data: data
        )
        with pytest.raises(grpc.RpcError) as raised:
            call(request, timeout=20)
    error: Any = raised.value
    code: grpc.StatusCode = error.code()
    return code


def field(number: int, content: bytes) -> bytes:
    """A string field on the wire."""
    return bytes([number << 3 | 2, len(content)]) + content


@pytest.mark.parametrize("name", [b"\xff\xfe", b"caf\xe9", b"\xed\xa0\x80", b"a\xc0\x80b"])
def test_a_name_that_is_not_utf8(daemon: Daemon, client: Client, name: bytes) -> None:
    """A latin-1 one, a surrogate, an overlong zero: an error as containerd's own, and no snapshot is made."""
    before = [info.name for info in client.walk()]
    for verb, number in (("Prepare", 2), ("View", 2), ("Stat", 2), ("Remove", 2)):
        assert raw_call(daemon, verb, field(number, name)) is grpc.StatusCode.INTERNAL
    assert [info.name for info in client.walk()] == before


def test_an_unknown_method_or_service(daemon: Daemon, client: Client) -> None:
    """UNIMPLEMENTED; an unknown field of a known request is passed over."""
    assert raw_call(daemon, "Mend", b"") is grpc.StatusCode.UNIMPLEMENTED
    assert raw_call(daemon, "../../other.Service/Stat", b"") is grpc.StatusCode.UNIMPLEMENTED
    assert raw_call(daemon, "Stat", field(2, b"none") + field(15, b"?")) is grpc.StatusCode.NOT_FOUND
    client.cleanup()


def test_labels_by_the_hundred(client: Client) -> None:
    """Two hundred, and one of 4 KiB, come back as they were given, from each verb that shows them."""
    labels = {f"containerd.io/label-{number}": f"{number}" * 10 for number in range(200)}
    labels["containerd.io/large"] = "ü" * 2048
    client.prepare("many-labels", "", labels)
    assert client.stat("many-labels").labels == labels
    found = [info.labels for info in client.walk(['labels."containerd.io/label-199"==' + "199" * 10])]
    assert found == [labels]
    updated = client.update(Info(Kind.ACTIVE, "many-labels", "", 0, 0, {"containerd.io/large": ""}), [])
    assert updated.labels == {"containerd.io/large": ""}


def test_a_key_of_4_kib(client: Client) -> None:
    """Through its whole life; the error about it is short."""
    key, name = "k" * 4096, "n" * 4096
    client.prepare(key, "", {})
    client.commit(name, key, {})
    client.view(key, name, {})
    assert client.stat(key).parent == name
    client.remove(key)
    client.remove(name)
    with pytest.raises(NotFound) as raised:
        client.stat(name)
    assert len(str(raised.value)) < 600


def descriptors(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


@pytest.mark.parametrize(
    "said",
    [b"", PREFACE[:7], PREFACE, PREFACE + SETTINGS, PREFACE + SETTINGS + HEADERS_CUT_SHORT, b"GET / HTTP/1.1\r\n"],
)
def test_connections_that_are_half_closed(daemon: Daemon, client: Client, said: bytes) -> None:
    """Whatever was said before: others are served meanwhile, and the server lets go of them."""
    client.cleanup()
    before, connections = descriptors(daemon), []
    for _ in range(20):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(daemon.address))
        connection.sendall(said)
        connection.shutdown(socket.SHUT_WR)
        connections.append(connection)
    client.cleanup()
    eventually(lambda: descriptors(daemon) <= before, 20)
    for connection in connections:
        connection.close()


def test_a_client_that_goes_in_the_middle_of_its_call(daemon: Daemon, client: Client) -> None:
    """What it asked for is made or not, and can be asked for again."""
    for number in range(20):
        with grpc.insecure_channel(f"unix:{daemon.address}") as channel:
            call: Any = channel.unary_unary(
                f"{SERVICE}/Prepare", request_serializer=lambda data: data, response_deserializer=lambda data: data
            )
            future = call.future(field(2, f"gone-{number}".encode()))
            time.sleep(0.0005 * number)
            future.cancel()
    client.cleanup()
    time.sleep(0.2)
    there = {info.name for info in client.walk(["name~=^gone-"])}
    for number in range(20):
        if f"gone-{number}" not in there:
            client.prepare(f"gone-{number}", "", {})
        client.remove(f"gone-{number}")
    client.cleanup()
    (left,) = [len(os.listdir(daemon.root / "snapshots"))]
    assert left == len(list(client.walk()))


@pytest.mark.parametrize("jump", [-10 * 365 * 86400, -1, 86400, 60 * 365 * 86400])
def test_a_clock_that_jumps(verbs: Snapshotter, monkeypatch: pytest.MonkeyPatch, jump: int) -> None:
    """The order of a list is that of the making, no snapshot is updated before it was made, and everything works."""
    now = time.time_ns
    verbs.prepare("before", "", {})
    verbs.prepare("updated", "", {})
    monkeypatch.setattr(time, "time_ns", lambda: now() + jump * 10**9)
    verbs.prepare("after", "", {})
    verbs.commit("committed", "before", {})
    verbs.update(Info(Kind.ACTIVE, "updated", "", 0, 0, {"a": "b"}), [])
    infos = list(verbs.walk())
    assert [info.name for info in infos] == ["committed", "updated", "after"]
    assert all(info.updated >= info.created for info in infos)
    verbs.prepare("child", "committed", {})


def test_a_clock_that_was_never_set(verbs: Snapshotter, monkeypatch: pytest.MonkeyPatch) -> None:
    """1970 and before are times as others."""
    for number, nanoseconds in enumerate((0, -1, -(10**18), 2**62)):
        monkeypatch.setattr(time, "time_ns", lambda nanoseconds=nanoseconds: nanoseconds)
        verbs.prepare(f"key-{number}", "", {})
        info = verbs.stat(f"key-{number}")
        assert info.created == nanoseconds
        assert info_to_api(info).created_at.ToNanoseconds() == nanoseconds


def test_the_descriptors_of_a_database_are_bounded(daemon: Daemon, client: Client) -> None:
    """A thousand calls leave nothing open."""
    client.prepare("bounded", "", {})
    before = descriptors(daemon)
    for _ in range(1000):
        client.stat("bounded")
    assert descriptors(daemon) <= before + 3


@pytest.mark.slow
def test_a_socket_whose_file_was_removed(tmp_path: Path) -> None:
    """Connections go on; a restart makes it anew."""
    with Daemon(tmp_path / "root", absolute_mountpoint=tmp_path / "none") as daemon, daemon.client() as client:
        client.prepare("key", "", {})
        daemon.address.unlink()
        assert client.stat("key").name == "key"
        assert daemon.stop() == 0
        daemon.start()
        with daemon.client() as again:
            assert again.stat("key").name == "key"
