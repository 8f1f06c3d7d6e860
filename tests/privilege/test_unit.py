"""The systemd unit: what it says, and that a real systemd starts the daemon with it and everything works."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import AlreadyExists
from snapshotter import labels as label
from snapshotter.client import Client
from snapshotter.config import Config
from tests.mounting import PROJECT, standin
from tests.privilege.booted import Booted, booted
from tests.privilege.confined import privileges
from tests.privilege.jobs import Scene, failures
from tests.privilege.unit import UNIT, settings
from tests.snapshotter.layers import HandMade, pull
from tests.suites.contract import fresh

STATE, RUNTIME = "/var/lib/containerd-cvmfs-grpc", "/run/containerd-cvmfs-grpc"
SOCKET = f"{RUNTIME}/containerd-cvmfs-grpc.sock"
LAYER = Digest.of(b"a layer")


def test_its_directories_are_the_defaults() -> None:
    """Of the configuration: with other ones the unit needs a drop-in, with these it needs nothing."""
    found = settings()
    assert (f"/var/lib/{found['StateDirectory'][0]}", f"/run/{found['RuntimeDirectory'][0]}") == (STATE, RUNTIME)
    assert (Config().root, str(Path(Config().address).parent)) == (STATE, RUNTIME)


def test_what_must_not_be_hardened_is_not() -> None:
    """Each of these would break serving: setgid directories, foreign owners, mounts of autofs that come later."""
    found = settings()
    assert {"RestrictSUIDSGID", "PrivateUsers", "User", "DynamicUser"}.isdisjoint(found)
    assert found["MountFlags"] == ["slave"]


@pytest.fixture
def analyze() -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze: install systemd")
    return program


def test_systemd_understands_it(analyze: str, tmp_path: Path) -> None:
    """Every key and value, without a warning."""
    text = UNIT.read_text().replace("/usr/bin/cvmfs-snapshotter", "/bin/true")  # the program is not installed here
    (tmp_path / UNIT.name).write_text(text)
    done = subprocess.run([analyze, "verify", str(tmp_path / UNIT.name)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_its_exposure(analyze: str) -> None:
    """systemd's own measure, from 0 to 10: what remains is what a daemon of root's files cannot do without."""
    command = [analyze, "security", "--offline=true", "--no-pager", "--threshold=16", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze has no --offline: systemd 250 or newer")
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def node() -> Iterator[Booted]:
    """The unit, started by systemd, with a repository that is a part of its host."""
    with booted() as started:
        yield started


@pytest.fixture(scope="module")
def client(node: Booted) -> Iterator[Client]:
    with Client(node.prefix + SOCKET) as connected:
        yield connected


@pytest.mark.root
def test_the_kernel_holds_it_to_it(node: Booted) -> None:
    """Capabilities, system call filter, no new privileges; no network device but loopback."""
    found = privileges(node.daemon)
    assert (found["NoNewPrivs"], found["Seccomp"], int(found["CapBnd"], 16)) == ("1", "2", 0b11011)
    devices = Path(f"/proc/{node.daemon}/net/dev").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in devices] == ["lo"]


@pytest.mark.root
def test_directories_and_socket(node: Booted) -> None:
    """The state is root's alone; the socket's directory may be entered, and only root may connect."""
    places = {STATE: 0o700, RUNTIME: 0o711, SOCKET: 0o600}
    assert {place: Path(node.prefix + place).stat().st_mode & 0o7777 for place in places} == places


@pytest.mark.root
def test_only_its_own_directories_are_writable(node: Booted) -> None:
    """Every mount of a disk is read-only for it, and of memory only its own and the private ones are not."""
    table = [line.split(" ") for line in Path(f"/proc/{node.daemon}/mountinfo").read_text().splitlines()]
    disks = [fields for fields in table if fields[fields.index("-") + 1] in ("ext4", "xfs", "btrfs", "overlay")]
    assert [fields[4] for fields in disks if "rw" in fields[5].split(",")] == []
    assert {STATE, RUNTIME} <= {fields[4] for fields in table if "rw" in fields[5].split(",")}


@pytest.mark.root
def test_every_job_is_done_under_systemd(node: Booted, client: Client) -> None:
    """Shims of foreign owners, container-made trees: the system call filter and the rest let all of it through."""
    scene = Scene(client, HandMade(node.own / "repository"), Path(node.prefix + STATE), node.prefix)
    assert failures(scene) == {}


@pytest.mark.root
def test_mounts_that_come_later_are_seen(node: Booted, client: Client) -> None:
    """A repository that autofs mounts, or that comes back, while the daemon runs; and its end."""
    HandMade(node.own / "repository")
    assert "absent" in miss(client, LAYER)
    node.on_the_host("mount", "-t", "tmpfs", "tmpfs", "/srv/repository")
    node.on_the_host("mkdir", "-p", f"/srv/repository/.layers/{LAYER.hex[:2]}/{LAYER.hex}/layerfs")
    with pytest.raises(AlreadyExists):
        client.prepare("extract", "", pull("t", LAYER))
    node.on_the_host("umount", "/srv/repository")
    assert "absent" in miss(client, LAYER)


def miss(client: Client, layer: Digest) -> str:
    """Why a Prepare is none of a repository's layer."""
    key = fresh("extract")
    client.prepare(key, "", pull(key, layer))
    return client.stat(key).labels[label.MISS]


@pytest.mark.root
@pytest.mark.fuse
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_it_starts_while_the_repository_is_down(tmp_path: Path, number: signal.Signals) -> None:
    """systemd makes a private view of all mounts for it: a FUSE client that is dead or that hangs keeps it from
    nothing. The daemon serves, and layers are misses with the reason."""
    HandMade(tmp_path / "source")
    place = Path(tempfile.mkdtemp(prefix="cv-", dir=PROJECT / ".cache"))  # not below /tmp, of which it has its own
    try:
        with standin(tmp_path / "source", place / "cvmfs") as mount:
            assert os.listdir(mount.mountpoint) == [".layers"]
            mount.process.send_signal(number)
            try:
                with booted(place / "cvmfs") as node, Client(node.prefix + SOCKET) as client:
                    assert miss(client, LAYER).split(":")[0] in ("timeout", "unmounted", "breaker-open")
            finally:
                mount.process.send_signal(signal.SIGCONT)
    finally:
        shutil.rmtree(place)
