"""A node without space, inodes, descriptors or a writable disk: each verb says so, nothing is lost, and all of it works
again when there is more."""

import contextlib
import os
import resource
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from cvmfsrepo.errors import AlreadyExists, ContractError, FailedPrecondition, ResourceExhausted
from protos.containerd.services.snapshots.v1 import snapshots_pb2 as api
from protos.containerd.services.snapshots.v1.snapshots_pb2_grpc import SnapshotsStub
from snapshotter.client import Client
from snapshotter.snapshots import Info, Kind
from tests import mounting
from tests.snapshotter.daemon import Daemon, refusal
from tests.snapshotter.layers import NAME, HandMade, pull
from tests.snapshotter.nodes import eventually
from tests.snapshotter.test_crash import assert_whole
from tests.suites.contract import upper_of

pytestmark = pytest.mark.slow

READING = ("stat", "list", "mounts", "usage")
ATTEMPTS = 3000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@contextlib.contextmanager
def serving(root: Path, repository: HandMade) -> Iterator[Daemon]:
    with Daemon(root, repository=NAME, absolute_mountpoint=repository.root) as daemon:
        yield daemon


@contextlib.contextmanager
def small(root: Path, *options: str) -> Iterator[None]:
    """A file system of its own below the state directory."""
    with mounting.mounted("tmpfs", "tmpfs", root, options):
        yield


def populate(client: Client) -> None:
    """Snapshots that every verb finds something to do with."""
    for name in ("base", "spare"):
        client.prepare(f"{name}-key", "", {})
        client.commit(name, f"{name}-key", {})
    client.prepare("active", "base", {})
    client.view("view", "base", {})
    client.prepare("orphan", "base", {})


def calls(client: Client, repository: HandMade, word: str) -> dict[str, Callable[[], object]]:
    """One call of each verb; those that make something make it under a new name."""
    return {
        "prepare": lambda: client.prepare(f"p-{word}", "base", {}),
        "remote": lambda: served(client, word, repository),
        "view": lambda: client.view(f"v-{word}", "base", {}),
        "commit": lambda: client.commit(f"c-{word}", "active", {}),
        "update": lambda: client.update(Info(Kind.ACTIVE, "view", "", 0, 0, {"word": word * 500}), []),
        "cleanup": client.cleanup,
        "stat": lambda: client.stat("base"),
        "list": lambda: list(client.walk()),
        "mounts": lambda: client.mounts("view"),
        "usage": lambda: client.usage("orphan"),
        "remove": lambda: client.remove("spare"),
    }


def served(client: Client, word: str, repository: HandMade) -> None:
    """A layer that is served or, in want of space for its shims, refused: not one that is downloaded instead."""
    layer = repository.add(f"layer-{word}", {".wh.gone": "", "a": ""})
    with pytest.raises(AlreadyExists, match="is served"):
        client.prepare(f"r-{word}", "", pull(f"{layer}", layer))


def names(client: Client) -> set[str]:
    return {info.name for info in client.walk()}


def exhaust(client: Client) -> int:
    """Prepares until one says that there is no more; how many there were."""
    for number in range(ATTEMPTS):
        try:
            client.prepare(f"many-{number}", "", {"text": "x" * 3000})
        except ResourceExhausted:
            return number
    raise AssertionError("nothing ran out")


def fill(path: Path) -> None:
    """Takes all space that is left."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def outcomes(client: Client, repository: HandMade, word: str, *allowed: type[ContractError]) -> dict[str, str]:
    """What each verb answered: "" or its error, which must be one of those allowed."""
    answers = {}
    for verb, call in calls(client, repository, word).items():
        before = names(client)
        try:
            call()
            answers[verb] = ""
        except allowed as error:
            answers[verb] = str(error)
            assert names(client) == before, f"{verb} failed and changed something"
    assert {verb: answers[verb] for verb in READING} == dict.fromkeys(READING, "")
    return answers


def assert_healed(daemon: Daemon, client: Client, repository: HandMade, failed: dict[str, str]) -> None:
    """What failed works now, and records and directories are whole, after a restart as well."""
    for verb, call in calls(client, repository, "healed").items():
        if failed[verb]:
            call()
    client.cleanup()
    assert_whole(daemon.root, list(client.walk()), client)
    before = names(client)
    daemon.kill9()
    daemon.start()
    with daemon.client() as again:
        assert names(again) == before
        assert_whole(daemon.root, list(again.walk()), again)


@pytest.mark.root
def test_a_full_disk(root: Path, repository: HandMade) -> None:
    """Verbs that write answer RESOURCE_EXHAUSTED with what to do, verbs that read go on, nothing that was answered is
    lost, and what failed works when there is space."""
    with small(root, "size=2m"), serving(root, repository) as daemon, daemon.client() as client:
        populate(client)
        fill(root / "filler")
        exhaust(client)
        failed = outcomes(client, repository, "full", ResourceExhausted)
        assert "make space" in failed["remote"]
        (root / "filler").unlink()
        assert_healed(daemon, client, repository, failed)


@pytest.mark.root
def test_a_remove_on_a_full_disk(root: Path, repository: HandMade) -> None:
    """It is what makes space, and it needs some for its record: the log is written over instead of grown."""
    with small(root, "size=2m"), serving(root, repository) as daemon, daemon.client() as client:
        mounts = client.prepare("large", "", {})
        (upper_of(mounts) / "file").write_bytes(bytes(300_000))
        fill(root / "filler")
        made = exhaust(client)
        client.remove("large")
        client.prepare("again", "", {})
        assert names(client) == {"again", *(f"many-{number}" for number in range(made))}


@pytest.mark.root
def test_no_inodes(root: Path, repository: HandMade) -> None:
    """As without space; a removal gives them back."""
    with small(root, "nr_inodes=90"), serving(root, repository) as daemon, daemon.client() as client:
        populate(client)
        made = exhaust(client)
        assert made > 5
        for number in range(10_000):  # a Prepare takes three inodes, and one or two may be left
            try:
                (root / f"filler-{number}").touch()
            except OSError:
                break
        failed = outcomes(client, repository, "full", ResourceExhausted)
        assert all(failed[verb] for verb in ("prepare", "remote", "view"))
        assert failed["remove"] == failed["update"] == ""
        for filler in root.glob("filler-*"):
            filler.unlink()
        for number in range(made):
            client.remove(f"many-{number}")
        assert_healed(daemon, client, repository, failed)


@pytest.mark.root
def test_a_layer_whose_shims_do_not_fit(root: Path, repository: HandMade) -> None:
    """RESOURCE_EXHAUSTED, though the snapshot alone would fit: a full disk is no reason to download the layer."""
    layer = repository.add("large", {f".wh.{number}": "" for number in range(80)})
    with small(root, "nr_inodes=90"), serving(root, repository) as daemon, daemon.client() as client:
        for _ in range(2):
            with pytest.raises(ResourceExhausted, match="No space left on device; make space or inodes"):
                client.prepare("extract", "", pull("large", layer))
        client.prepare("small", "", {})
        assert names(client) == {"small"}
        assert_whole(daemon.root, list(client.walk()), client)


@pytest.mark.root
def test_no_descriptors(root: Path, repository: HandMade) -> None:
    """Verbs that need one answer RESOURCE_EXHAUSTED; none is an internal error, and none half done."""
    with serving(root, repository) as daemon, daemon.client() as client:
        populate(client)
        limits = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        failed: dict[str, str] = {}
        for verb, call in calls(client, repository, "none").items():
            failed[verb] = ""
            try:
                call()
            except ResourceExhausted as error:
                failed[verb] = str(error)
        waiting = idle_connections(daemon.address, 1)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, limits)
        with daemon.client() as late, waiting[0]:
            assert late.stat("base").name == "base"
        assert failed["cleanup"]
        assert "LimitNOFILE" in failed["cleanup"]
        assert_healed(daemon, client, repository, failed)
        assert [line for line in daemon.log_lines() if line.get("msg") == "internal error"] == []


@pytest.fixture
def aborting(root: Path, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """An ext4 of its own below the state directory, and what makes the kernel take it for damaged: it becomes
    read-only under open files, as `mount -o remount,ro` refuses to do."""
    root.mkdir()
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    for command in (["mkfs.ext4", "-q", str(image)], ["mount", "-o", "loop", str(image), str(root)]):
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no ext4 on a loop device here: {error} {getattr(error, 'stderr', b'')!r}")
    try:
        yield lambda: _remount_aborted(root)
    finally:
        subprocess.run(["umount", str(root)], check=True)


def _remount_aborted(root: Path) -> None:
    subprocess.run(["mount", "-o", "remount,abort", str(root)], check=True)


@pytest.mark.root
def test_a_disk_that_becomes_read_only(root: Path, repository: HandMade, aborting: Callable[[], None]) -> None:
    """FAILED_PRECONDITION with what to do, for no repetition helps; verbs that read go on; a start is refused."""
    with serving(root, repository) as daemon, daemon.client() as client:
        populate(client)
        aborting()
        failed = outcomes(client, repository, "ro", FailedPrecondition)
        writing = ("prepare", "remote", "view", "commit", "update", "remove")
        assert [verb for verb in writing if "Read-only file system; see the kernel's log" not in failed[verb]] == []
        daemon.kill9()
        assert "Read-only file system" in refusal(root)


@pytest.mark.root
def test_a_start_on_a_full_disk(root: Path, repository: HandMade) -> None:
    """Is refused with what to do, or serves; the state is as before, and with space it starts."""
    with small(root, "size=1m"):
        with serving(root, repository) as daemon, daemon.client() as client:
            populate(client)
            before = names(client)
            assert daemon.stop() == 0
        fill(root / "filler")
        said = refusal(root)
        assert "space" in said
        assert "make space" in said
        (root / "filler").unlink()
        with serving(root, repository) as daemon, daemon.client() as client:
            assert names(client) == before


def idle_connections(address: Path, count: int) -> list[socket.socket]:
    """Connections that say nothing."""
    connections = []
    for _ in range(count):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(address))
        connections.append(connection)
    return connections


def descriptors(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def own_channel(daemon: Daemon) -> grpc.Channel:
    """A channel with a connection of its own; those of a process share one otherwise."""
    return grpc.insecure_channel(f"unix:{daemon.address}", options=[("grpc.use_local_subchannel_pool", 1)])


@contextlib.contextmanager
def soft_limit(number: int) -> Iterator[None]:
    """Of descriptors in this process, and what it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(number, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_thousand_connections(root: Path, repository: HandMade) -> None:
    """Also where the service's soft limit of descriptors is low: the daemon takes what the hard one allows. Each is
    served, none costs anything once it is closed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip(f"the hard limit of descriptors is {hard}, and the test and its daemon need 4096")
    with contextlib.ExitStack() as outer, soft_limit(4096):
        with soft_limit(256):
            daemon = outer.enter_context(serving(root, repository))
        first = outer.enter_context(daemon.client())
        first.prepare("key", "", {})
        before = descriptors(daemon)
        with contextlib.ExitStack() as stack:
            stubs = [SnapshotsStub(stack.enter_context(own_channel(daemon))) for _ in range(100)]
            for connection in idle_connections(daemon.address, 900):
                stack.enter_context(connection)
            request = api.StatSnapshotRequest(key="key")
            assert {stub.Stat(request, timeout=60).info.name for stub in stubs} == {"key"}
            eventually(lambda: descriptors(daemon) >= before + 1000, 20)
        eventually(lambda: descriptors(daemon) <= before + 5, 20)
        assert first.stat("key").name == "key"
