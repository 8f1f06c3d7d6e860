"""The admin service: who may ask, what travels, and that its answers wait for nobody."""

import os
import socket
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import (
    AlreadyExists,
    ContractError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from protos.cvmfs.snapshotter.admin.v1 import admin_pb2
from snapshotter.admin import values
from snapshotter.admin.client import AdminClient, is_served
from snapshotter.admin.convert import from_message, to_message
from snapshotter.admin.facts import Facts
from snapshotter.client import Client
from snapshotter.config import Config
from snapshotter.server import MANY_WORKERS, opened_node
from tests import mounting
from tests.snapshotter.daemon import Daemon, refusal
from tests.snapshotter.layers import NAME, HandMade, pull
from tests.snapshotter.nodes import eventually
from tests.suites.contract import fresh

AT_ONCE = 2.0
"""Seconds that an answer may take on a machine that does other things too; a deadline of a test is far longer."""
_NOBODY = 65534


def admin_of(daemon: Daemon) -> Path:
    return daemon.address.with_name("admin.sock")


@contextmanager
def on_mount(directory: Path, revision: int = 1, **settings: object) -> Iterator[tuple[mounting.Standin, Daemon]]:
    """A daemon on a mount of `directory`/source. Faults end before the daemon does: a process with a call that hangs
    cannot end."""
    mounting.needs_fuse()
    with (
        mounting.standin(directory / "source", directory / "mount", revision=revision) as standin,
        Daemon(directory / "root", repository=NAME, absolute_mountpoint=standin.mountpoint, **settings) as daemon,
    ):
        try:
            yield standin, daemon
        finally:
            standin.clear()


@contextmanager
def another_user() -> Iterator[None]:
    """As somebody without privileges."""
    os.setegid(_NOBODY)
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def snapshot() -> values.Snapshot:
    """A value with every field set."""
    return values.Snapshot(
        "n", "committed", "p", 1, 2**60, 3, {"a": "1", "null": "null"}, 2**53 + 1, 5, "r", "sha256:l", 7, "h", "w", "m"
    )


FULL_STATUS = values.Status(
    True, "1", "/r", "/a", 4, 5,
    (values.RepositoryStatus("n", "/r", "open", 1, "d", 0, values.IndexStatus(1, 2, 3, 4, True, True, 5, "p")),),
    values.SnapshotCounts(1, 2, 3, 4, 5), values.DiskUse(1, 2, 3, 4, 5, 6),
    values.Served({"n": 1}, {"absent": 2}, 3, 4), 6, "p",
)  # fmt: skip


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (FULL_STATUS, admin_pb2.StatusResponse),
        (values.Status(False, "", "", ""), admin_pb2.StatusResponse),
        (snapshot(), admin_pb2.Snapshot),
        (values.Snapshot("n", "active"), admin_pb2.Snapshot),
        (
            values.Explanation(
                (values.Shown(snapshot(), ("/a",), "/b", ("owners",), True),), (values.MountPlan("t", "s", ("o",)),),
                True, "u",
            ),
            admin_pb2.Explanation,
        ),
        (values.ImageFacts("r", "n", "c", "m", "p", ("l",), ("x",), 1, 2, "q"), admin_pb2.ImageFacts),
        (values.LayerFacts("d", "n", "i", 1, 2, 3, 4, 5, ("a",), ("b",)), admin_pb2.LayerFacts),
        (values.LayerFacts("d", "n"), admin_pb2.LayerFacts),
        (values.LayerFacts("d", "n", size=0, markers=0), admin_pb2.LayerFacts),
        (values.Backup("p", 1, 2), admin_pb2.BackupResponse),
        (values.Problem("p", "q", "r"), admin_pb2.Problem),
    ],
)  # fmt: skip
def test_values_travel_unchanged(value: msgspec.Struct, message: type[admin_pb2.Problem]) -> None:
    """Numbers of 64 bits, unset and zero, and text that looks like a number or null."""
    assert from_message(to_message(value, message), type(value)) == value


@pytest.mark.parametrize("name", [name for name in dir(values) if name[0].isupper() and name != "Mapping"])
def test_messages_have_the_fields_of_the_values(name: str) -> None:
    """Each value has a message with the same fields; what is missing on one side would be lost without a word."""
    message = admin_pb2.DESCRIPTOR.message_types_by_name.get(name) or getattr(admin_pb2, f"{name}Response").DESCRIPTOR
    fields = [field.name for field in msgspec.structs.fields(getattr(values, name))]
    assert [field.name for field in message.fields] == fields


@pytest.mark.slow
@pytest.mark.root
def test_another_user_cannot_connect(tmp_path: Path) -> None:
    """The socket is 0600, also where a group may use the other one; the refusal names it and says what to do."""
    with Daemon(tmp_path / "root", socket_group=str(_NOBODY)) as daemon:
        admin = admin_of(daemon)
        daemon.address.parent.parent.chmod(0o711)
        daemon.address.parent.chmod(0o711)
        assert (stat.S_IMODE(admin.stat().st_mode), admin.stat().st_uid) == (0o600, 0)
        assert stat.S_IMODE(daemon.address.stat().st_mode) == 0o660
        with another_user():
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(daemon.address))
            with socket.socket(socket.AF_UNIX) as probe, pytest.raises(PermissionError):
                probe.connect(str(admin))
            with pytest.raises(PermissionDenied, match=r"admin.sock': may not be opened; run as root"):
                is_served(admin)
        assert is_served(admin)


@pytest.mark.slow
def test_the_socket_goes_with_the_daemon(tmp_path: Path) -> None:
    """A daemon that was killed leaves its file, which nobody takes for a daemon and the next one replaces."""
    with Daemon(tmp_path / "root") as daemon:
        admin = admin_of(daemon)
        daemon.kill9()
        assert admin.is_socket()
        assert not is_served(admin)
        daemon.start()
        assert is_served(admin)
        assert daemon.stop() == 0
        assert not admin.exists()
        assert not is_served(admin)


@pytest.mark.slow
def test_a_socket_that_is_in_use_refuses_the_start(tmp_path: Path, short_path: Path) -> None:
    """As the other one does: two daemons would answer for each other."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(short_path / "admin.sock"))
        other.listen()
        said = refusal(tmp_path / "root", address=short_path / "s.sock", tables="index = false\n")
    assert f"socket '{short_path}/admin.sock': is in use by a running server" in said


@pytest.mark.parametrize(
    ("ask", "kind", "text"),
    [
        (lambda c: c.explain("none"), NotFound, "snapshot 'none': does not exist"),
        (lambda c: c.get_layers("x"), InvalidArgument, "layer digest 'x': is not sha256:"),
        (lambda c: c.get_image("a/b:c"), NotFound, "image 'a/b:c': is in the index of no repository"),
        (lambda c: list(c.walk(["kind=x"])), InvalidArgument, "filter 'kind=x': at character 4"),
    ],
)
def test_errors_arrive_as_they_were_raised(tmp_path: Path, ask: object, kind: type[ContractError], text: str) -> None:
    """With their class and their sentence."""
    with Daemon(tmp_path / "root") as daemon, AdminClient(admin_of(daemon)) as client:
        with pytest.raises(kind) as raised:
            ask(client)  # type: ignore[operator]
        assert str(raised.value).startswith(text)


def test_a_daemon_that_does_not_answer_is_unavailable(short_path: Path) -> None:
    """Something listens and says nothing: the call ends, and says so."""
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(short_path / "s"))
        silent.listen()
        with AdminClient(short_path / "s", timeout=0.5) as client, pytest.raises(Unavailable):
            client.status()


def test_findings_are_those_of_the_disk(tmp_path: Path) -> None:
    """What a person changed by hand is named while the daemon runs."""
    with Daemon(tmp_path / "root") as daemon, AdminClient(admin_of(daemon)) as client:
        with daemon.client() as verbs:
            verbs.prepare("a", "", {})
        assert client.findings() == ()
        (daemon.root / "snapshots" / "1" / "work").rmdir()
        (daemon.root / "snapshots" / "stran\udcffger").mkdir()
        first, second = client.findings()
    assert (first.path, first.problem) == (f"{daemon.root}/snapshots/1/work", "is missing: it belongs to snapshot 'a'")
    assert second.path == rf"{daemon.root}/snapshots/stran\xffger"


def test_repair_mends_and_says_what_it_did(tmp_path: Path) -> None:
    """Through the service, while the daemon serves; afterwards nothing is found, and nothing is left to do."""
    layer = HandMade(tmp_path / "repository").add("base")
    settings = {"repository": NAME, "absolute_mountpoint": tmp_path / "repository"}
    with Daemon(tmp_path / "root", **settings) as daemon, AdminClient(admin_of(daemon)) as client:
        with daemon.client() as verbs, pytest.raises(AlreadyExists):
            verbs.prepare("x", "", pull("base", layer))
        link = daemon.root / "snapshots" / "1" / "h"
        text = os.readlink(link)
        link.unlink()
        assert [found.path for found in client.findings()] == [str(link)]
        (done,) = client.repair()
        assert done.path == str(link)
        assert os.readlink(link) == text
        assert (client.findings(), client.repair()) == ((), ())


def test_many_records_come_in_order(config: Config) -> None:
    """Over several messages of the stream, as in this process."""
    with opened_node(config) as node:
        for number in range(250):
            node.verbs.prepare(f"k{number}", "", {"n": str(number)})
        facts = Facts(node)
        local = list(facts.walk())
        assert [one.name for one in local] == [f"k{number}" for number in range(250)]
        assert [one.name for one in facts.walk(["labels.n==7"])] == ["k7"]
        assert facts.status().snapshots == values.SnapshotCounts(active=250)


def test_what_publication_lost_is_told(config: Config, repository: HandMade) -> None:
    """Known where the layer has a record, and else not known."""
    with_record, without = repository.add("with"), repository.add("without")
    repository.record(with_record)
    with opened_node(config) as node:
        for layer in (with_record, without):
            with pytest.raises(AlreadyExists):
                node.verbs.prepare("x", "", pull(str(layer), layer))
        facts = Facts(node)
        names = {one.layer: one.name for one in facts.walk()}

        def known(layer: Digest) -> bool:
            return facts.explain(names[str(layer)]).chain[0].losses_known

        eventually(lambda: known(with_record))
        assert facts.explain(names[str(with_record)]).chain[0].losses == ()
        assert not known(without)


@pytest.mark.root
@pytest.mark.fuse
def test_it_answers_while_every_snapshot_call_hangs(tmp_path: Path) -> None:
    """More Prepares wait for a stalled repository than the daemon has threads for them: `status` and the records come
    at once, and say that the repository does not answer."""
    layer = HandMade(tmp_path / "source").add("base")
    with (
        on_mount(tmp_path, deadline=8.0, probe_interval=0.5) as (standin, daemon),
        AdminClient(admin_of(daemon)) as admin,
    ):
        clients = [daemon.client() for _ in range(16)]
        with pytest.raises(AlreadyExists):
            clients[0].prepare("x", "", pull("base", layer))
        standin.fault("stall")
        with ThreadPoolExecutor(MANY_WORKERS + 20) as pool:
            for number in range(MANY_WORKERS + 20):
                pool.submit(_prepare, clients[number % 16], number)
            slowest, end = 0.0, time.monotonic() + 4.0
            while time.monotonic() < end:
                began = time.monotonic()
                found = admin.status()
                assert [one.layer for one in admin.walk(["kind==committed"])] == [str(layer)]
                slowest = max(slowest, time.monotonic() - began)
                assert found.snapshots is not None
                assert found.snapshots.remote == 1
            assert slowest < AT_ONCE
            eventually(lambda: admin.status().repositories[0].state == "open", 30)
            assert admin.status().repositories[0].detail
            standin.clear()


def _prepare(client: Client, number: int) -> None:
    client.prepare(fresh("hang"), "", pull(f"t{number}", Digest.of(f"{number}".encode())))


@pytest.mark.root
@pytest.mark.fuse
def test_the_revision_is_the_last_one_seen(tmp_path: Path) -> None:
    """It is asked for of nobody: a repository that hangs keeps the revision that it had."""
    HandMade(tmp_path / "source")
    with (
        on_mount(tmp_path, revision=7, deadline=0.5, probe_interval=0.2) as (standin, daemon),
        AdminClient(admin_of(daemon)) as admin,
    ):
        eventually(lambda: admin.status().repositories[0].revision == 7)
        standin.set_revision(8)
        eventually(lambda: admin.status().repositories[0].revision == 8)
        standin.fault("stall")
        eventually(lambda: admin.status().repositories[0].state == "open")
        began = time.monotonic()
        assert admin.status().repositories[0].revision == 8
        assert time.monotonic() - began < AT_ONCE


def test_a_backup_is_not_written_twice_at_once(tmp_path: Path) -> None:
    """Several ask at one time: each gets a whole copy."""
    with Daemon(tmp_path / "root") as daemon, AdminClient(admin_of(daemon)) as client:
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda _: client.back_up(), range(24)))
        assert len({one.path for one in made}) == 1
        assert not list(daemon.root.glob("*.new"))
        assert made[0].size > 0
