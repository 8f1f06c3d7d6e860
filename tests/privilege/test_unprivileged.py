"""Without root: what works, and what is refused with a reason."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import AlreadyExists, PermissionDenied
from snapshotter import labels as label
from snapshotter.client import Client
from tests.privilege.confined import FIRST_ID, NOBODY, InUserNamespace, Unprivileged, privileges
from tests.snapshotter.daemon import DaemonError
from tests.snapshotter.layers import NAME, HandMade, lookup, pull
from tests.suites.contract import SnapshotterContract, Verbs, fresh, upper_of
from tests.suites.records import RecordContract

pytestmark = pytest.mark.root  # to become another user


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory that every user may enter."""
    import shutil
    import tempfile

    directory = Path(tempfile.mkdtemp(prefix="cv-", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def repository(place: Path) -> HandMade:
    return HandMade(place / "repository")


@pytest.fixture(scope="module")
def daemon(place: Path, repository: HandMade) -> Iterator[Unprivileged]:
    with Unprivileged(place / "root", repository=NAME, absolute_mountpoint=repository.root) as started:
        yield started


@pytest.fixture(scope="module")
def client(daemon: Unprivileged) -> Iterator[Client]:
    with daemon.client() as connected:
        yield connected


def miss(client: Client, layer: Digest) -> str:
    """Why a Prepare is none of a repository's layer."""
    key = fresh("extract")
    client.prepare(key, "", pull(key, layer))
    return client.stat(key).labels[label.MISS]


def test_it_has_no_privilege(daemon: Unprivileged) -> None:
    """What the rest of this file is about."""
    found = privileges(daemon.pid)
    assert (found["Uid"].split()[1], int(found["CapEff"], 16), found["NoNewPrivs"]) == (str(NOBODY), 0, "1")


@pytest.mark.slow
class TestContract(SnapshotterContract, RecordContract):
    """Local snapshots work whole, as long as their files are the daemon's own."""

    @pytest.fixture
    def verbs(self, client: Client) -> Verbs:
        return client

    @pytest.fixture
    def root(self, daemon: Unprivileged) -> Path:
        return daemon.root

    def test_the_root_directory_has_the_parents_owner(self, verbs: Verbs) -> None:
        """An owner that is not its own cannot be given: refused, and nothing stays behind."""
        with pytest.raises(PermissionDenied, match="Operation not permitted"):
            super().test_the_root_directory_has_the_parents_owner(verbs)

    def test_cleanup_removes_directories_without_a_record(self, verbs: Verbs, root: Path) -> None:
        """What is another user's stays, and Cleanup says so."""
        with pytest.raises(PermissionDenied, match="Permission denied"):
            super().test_cleanup_removes_directories_without_a_record(verbs, root)


def test_a_layer_is_a_miss_with_the_reason(client: Client, repository: HandMade) -> None:
    """An image's root belongs to 0:0, and no shim of it can be made: the layer is downloaded, and the reason says
    which privilege is missing. Nothing stays behind."""
    layer = repository.add("base")
    assert miss(client, layer).startswith(f"denied: layer {layer} in {NAME}: ")  # its root is 0711
    repository.layout.layerfs(layer).chmod(0o755)
    said = miss(client, layer)
    assert said.startswith(f"markers-unavailable: shims of layer {layer} cannot be written: ")
    assert "Operation not permitted" in said


def test_a_foreign_tree_is_refused_with_the_reason(client: Client, daemon: Unprivileged) -> None:
    """Usage and Commit say what is missing and change nothing; Remove forgets the snapshot and logs what stays."""
    key = fresh("key")
    private = upper_of(client.prepare(key, "", {})) / "private"
    private.mkdir(0o700)
    (private / "file").touch()
    for call in (lambda: client.usage(key), lambda: client.commit(fresh("name"), key, {})):
        with pytest.raises(PermissionDenied, match=r"capabilities of its systemd unit"):
            call()
    assert client.stat(key).name == key
    client.remove(key)
    (line,) = [line for line in daemon.log_lines() if line["msg"] == "directory not removed" and line["key"] == key]
    assert "Permission denied" in line["detail"]


def test_a_state_directory_of_somebody_else(place: Path) -> None:
    """Refused at the start, with what to do."""
    daemon = Unprivileged(place / "foreign")
    os.chown(daemon.root, 0, 0)
    with pytest.raises(DaemonError, match="run as the owner of the directory"):
        daemon.start()
    daemon.close()


def test_root_of_a_user_namespace(place: Path, repository: HandMade) -> None:
    """Layers are served, with the owners that the namespace gives them, and every mount says `userxattr`: overlayfs
    must look for its marks where this root may write them."""
    layer = repository.add("namespace", {"d/.wh.gone": "", "d/file": ""})
    base = repository.layout.layerfs(layer)
    for path in (base, *base.rglob("*")):
        os.chown(path, FIRST_ID, FIRST_ID)
    os.chown(base / "d", FIRST_ID + 1000, FIRST_ID + 1000)
    with (
        InUserNamespace(place / "namespace", repository=NAME, absolute_mountpoint=repository.root) as daemon,
        daemon.client() as client,
    ):
        key = fresh("extract")
        with pytest.raises(AlreadyExists, match="is served"):
            client.prepare(key, "", pull("t", layer))
        (name,) = lookup(client, "t", "")
        (mount,) = client.prepare(fresh("key"), name, {})
        assert "userxattr" in mount.options
        (number,) = [path for path in (daemon.root / "snapshots").iterdir() if (path / "h").is_symlink()]
        assert (number / "h").stat().st_uid == FIRST_ID
        assert (number / "h" / "d").stat().st_uid == FIRST_ID + 1000
        assert (number / "w" / "d" / "gone").is_char_device()
