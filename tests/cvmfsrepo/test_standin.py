"""The stand-in shows what a CVMFS client shows, no more and no less."""

import errno
import mmap
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import mounting
from tests.mounting import Standin, mounts_at, standin

pytestmark = [pytest.mark.root, pytest.mark.fuse]

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw=ep, revision 2
MAGIC_ON_FILES = {"user.hash", "user.lhash", "user.chunks"}
ODD_NAMES = [b"latin-\xe4\xf6", b"\xff\xfe\x80", "snow-☃".encode(), b"a b:c,d\\e=f\"g'\n\t", b"n" * 255]


@pytest.fixture(scope="module", autouse=True)
def _fuse_is_here() -> None:
    mounting.needs_fuse()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standin]:
    """A tree of every kind of entry, mounted."""
    base = tmp_path_factory.mktemp("served")
    make_tree(base / "source")
    with standin(base / "source", base / "mount", fqrn="cat.example.org", revision=7) as running:
        yield running


def make_tree(root: Path) -> None:
    (root / "dir/deep/deeper").mkdir(parents=True)
    (root / "empty").mkdir(mode=0o700)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    for name, mode in (("plain", 0o644), ("su", 0o4755), ("sg", 0o2711), ("secret", 0o000), ("dir/f", 0o600)):
        (root / name).write_bytes(name.encode() * 1000)
        (root / name).chmod(mode)
    (root / "zero").touch()
    with (root / "sparse").open("wb") as file:
        file.truncate(5 << 20)
        file.seek(3 << 20)
        file.write(os.urandom(200_000))
    (root / "dir/g").hardlink_to(root / "dir/f")
    (root / "link").symlink_to("dir/f")
    (root / "dangling").symlink_to("/no/where/" + "x" * 3000)
    os.symlink(b"to-\xff\xfe", os.fsencode(root) + b"/odd-target")
    os.mkfifo(root / "pipe")
    os.mknod(root / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(root / "whiteout", stat.S_IFCHR, os.makedev(0, 0))
    os.mknod(root / "disk", 0o660 | stat.S_IFBLK, os.makedev(259, 70_000))
    os.mknod(root / "socket", 0o755 | stat.S_IFSOCK)
    for odd in ODD_NAMES:
        (root / os.fsdecode(odd)).write_bytes(odd)
    os.setxattr(root / "plain", "user.own", b"\x00\xff odd \x00")
    os.setxattr(root / "plain", "security.capability", CAPABILITY)
    os.setxattr(root / "dir", "trusted.overlay.opaque", b"y")
    os.setxattr(root / "link", "trusted.mark", b"", follow_symlinks=False)
    os.chown(root / "su", 1234, 4_000_000_000)
    (root / "su").chmod(0o4755)  # chown cleared it
    os.chown(root / "link", 77, 78, follow_symlinks=False)
    for number, path in enumerate(sorted(walk(os.fsencode(root)), reverse=True)):
        os.utime(path, ns=(0, 1_500_000_000_123_456_789 + number), follow_symlinks=False)
    os.utime(root / "zero", ns=(0, -1_500_000_000))


def walk(root: bytes) -> Iterator[bytes]:
    yield root
    for folder, folders, files in os.walk(root):
        yield from (os.path.join(folder, name) for name in folders + files)


def attributes(path: bytes) -> dict[str, object]:
    """What must arrive unharmed; names that are only there on the mount's root are left out."""
    found = os.lstat(path)
    shown: dict[str, object] = {
        name: getattr(found, name)
        for name in ("st_mode", "st_uid", "st_gid", "st_size", "st_mtime_ns", "st_rdev", "st_blocks", "st_blksize")
    }
    if stat.S_ISLNK(found.st_mode):
        shown["target"] = os.readlink(path)
    if stat.S_ISREG(found.st_mode):
        with open(path, "rb") as file:
            shown["content"] = file.read()
    own = ("user.own", "trusted.", "security.capability")
    names = [name for name in os.listxattr(path, follow_symlinks=False) if name.startswith(own)]
    shown["xattrs"] = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
    return shown


def test_the_mount_looks_like_a_clients(served: Standin) -> None:
    """Type, source and options are the ones that a real client's line in /proc/mounts has."""
    (line,) = mounts_at(served.mountpoint)
    source, _, kind, options, *_ = line.split(" ")
    assert (source, kind) == ("cvmfs2", "fuse")
    assert options == "ro,nosuid,nodev,relatime,user_id=0,group_id=0,default_permissions,allow_other"


def test_every_entry_arrives_as_it_is(served: Standin) -> None:
    """Names of any bytes, types, modes, owners, sizes, nanoseconds, devices, targets, content and xattrs are kept."""
    source, mount = os.fsencode(served.source), os.fsencode(served.mountpoint)
    names = {path.removeprefix(source) for path in walk(source)}
    assert {path.removeprefix(mount) for path in walk(mount)} == names
    assert {b"/" + name for name in ODD_NAMES} < names
    for name in names:
        assert attributes(mount + name) == attributes(source + name), name


def test_hard_links_arrive_as_separate_files(served: Standin) -> None:
    """Each name has a link count of 1 and an inode of its own, the same in a listing and in a stat."""
    f, g = (os.lstat(served.mountpoint / "dir" / name) for name in "fg")
    assert (f.st_nlink, g.st_nlink) == (1, 1)
    assert f.st_ino != g.st_ino
    with os.scandir(served.mountpoint) as entries:
        for entry in entries:
            assert entry.inode() == os.lstat(entry.path).st_ino, entry.name


def test_a_name_has_no_length(served: Standin) -> None:
    """statfs reports a name length of 0 beside the source's own numbers."""
    found = os.statvfs(served.mountpoint)
    assert found.f_namemax == 0
    assert found.f_blocks == os.statvfs(served.source).f_blocks


def _create(root: Path) -> None:
    (root / "new").touch()


WRITES: dict[str, Callable[[Path], object]] = {
    "create": _create,
    "append": lambda root: (root / "plain").open("ab"),
    "mkdir": lambda root: (root / "new").mkdir(),
    "mknod": lambda root: os.mknod(root / "new", stat.S_IFCHR, 0),
    "symlink": lambda root: (root / "new").symlink_to("x"),
    "link": lambda root: (root / "new").hardlink_to(root / "plain"),
    "unlink": lambda root: (root / "plain").unlink(),
    "rmdir": lambda root: (root / "empty").rmdir(),
    "rename": lambda root: (root / "plain").rename(root / "new"),
    "chmod": lambda root: (root / "plain").chmod(0o600),
    "chown": lambda root: os.chown(root / "plain", 1, 1),
    "utime": lambda root: os.utime(root / "plain"),
    "truncate": lambda root: os.truncate(root / "plain", 0),
    "setxattr": lambda root: os.setxattr(root / "plain", "user.own", b"x"),
    "removexattr": lambda root: os.removexattr(root / "plain", "user.own"),
}


@pytest.mark.parametrize("write", WRITES)
def test_nothing_can_be_written(served: Standin, write: str) -> None:
    """Every way to change something answers EROFS, as for root."""
    with pytest.raises(OSError) as caught:
        WRITES[write](served.mountpoint)
    assert caught.value.errno == errno.EROFS


def test_magic_attributes_answer_where_the_clients_do(served: Standin) -> None:
    """On the root, directories and regular files, and there only; the hash of the content on regular files."""
    mount = served.mountpoint
    for path in (mount, mount / "dir", mount / "dir/deep", mount / "plain"):
        assert os.getxattr(path, "user.fqrn") == b"cat.example.org"
        assert os.getxattr(path, "user.revision") == b"7"
        assert os.getxattr(path, "user.pid") == str(served.pid).encode()
        assert len(os.getxattr(path, "user.root_hash")) == 40
    for name in ("link", "dangling", "pipe", "null", "disk", "whiteout"):
        with pytest.raises(OSError) as caught:
            os.getxattr(mount / name, "user.fqrn", follow_symlinks=False)
        assert caught.value.errno == errno.ENODATA, name
    assert os.getxattr(mount / "dir/f", "user.hash") == os.getxattr(mount / "dir/g", "user.hash")
    assert os.getxattr(mount / "plain", "user.hash") != os.getxattr(mount / "su", "user.hash")
    for path, name in ((mount, "user.hash"), (mount / "dir", "user.chunks"), (mount / "plain", "user.nothing")):
        with pytest.raises(OSError) as caught:
            os.getxattr(path, name)
        assert caught.value.errno == errno.ENODATA


def test_magic_attributes_are_listed_on_the_root_alone(served: Standin) -> None:
    """A copy of a file or directory must not carry them along."""
    listed = set(os.listxattr(served.mountpoint))
    assert {"user.fqrn", "user.revision", "user.root_hash", "user.version", "user.expires", "user.nclg"} < listed
    assert not listed & MAGIC_ON_FILES
    for name in listed:
        os.getxattr(served.mountpoint, name)
    assert set(os.listxattr(served.mountpoint / "dir")) == {"trusted.overlay.opaque"}
    assert set(os.listxattr(served.mountpoint / "plain")) == {"user.own", "security.capability"}
    assert os.listxattr(served.mountpoint / "dir/f") == []


def test_the_revision_can_move_on(tmp_path: Path) -> None:
    """The control socket sets the revision, and with it the root hash, of a running stand-in."""
    source = tmp_path / "source"
    source.mkdir()
    with standin(source, tmp_path / "mount", revision=3) as running:
        before = os.getxattr(running.mountpoint, "user.root_hash")
        assert os.getxattr(running.mountpoint, "user.revision") == b"3"
        running.set_revision(4)
        assert os.getxattr(running.mountpoint, "user.revision") == b"4"
        assert os.getxattr(running.mountpoint, "user.root_hash") != before


def test_the_owner_can_be_claimed_and_times_cut(tmp_path: Path) -> None:
    """With a claimed owner every entry is his, modes kept; whole seconds cut the rest, downwards also before 1970."""
    make_tree(tmp_path / "source")
    with standin(tmp_path / "source", tmp_path / "mount", claim=(33, 44), whole_seconds=True) as running:
        source, mount = os.fsencode(running.source), os.fsencode(running.mountpoint)
        for path in walk(mount):
            shown, true = os.lstat(path), os.lstat(source + path.removeprefix(mount))
            assert (shown.st_uid, shown.st_gid, shown.st_mode) == (33, 44, true.st_mode)
            assert shown.st_mtime_ns == true.st_mtime_ns // 10**9 * 10**9


def test_permissions_are_the_kernels_business(served: Standin) -> None:
    """Another user may use the mount and is refused what the modes refuse him."""
    script = (
        "import os, sys; root = os.open(sys.argv[1], os.O_PATH); os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: os.open(sys.argv[2], os.O_RDONLY, dir_fd=root)\n"
        "except PermissionError: sys.exit(13)"
    )  # by descriptor: the directories above belong to root alone

    def reads(name: str) -> bool:
        status = subprocess.run([sys.executable, "-c", script, str(served.mountpoint), name]).returncode
        assert status in (0, 13)
        return status == 0

    assert reads("plain")
    assert not reads("secret")
    assert not reads("dir/f")


def test_reads_are_exact_at_any_offset(served: Standin) -> None:
    """Reads across pages, holes and the end of the file, and a mapping, give the source's bytes."""
    whole = (served.source / "sparse").read_bytes()
    with (served.mountpoint / "sparse").open("rb", buffering=0) as file:
        for offset, size in ((0, 1), (4095, 2), ((3 << 20) - 7, 300_000), ((5 << 20) - 3, 100), (6 << 20, 5)):
            assert os.pread(file.fileno(), size, offset) == whole[offset : offset + size]
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert mapped[:] == whole


def test_changes_of_the_source_are_seen(tmp_path: Path) -> None:
    """Without a kernel cache a changed, a new and a removed file are seen at once."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "f").write_text("old")
    with standin(source, tmp_path / "mount") as running:
        mount = running.mountpoint
        assert (mount / "f").read_text() == "old"
        (source / "f.new").write_text("newer")
        (source / "f.new").rename(source / "f")
        assert (mount / "f").read_text() == "newer"
        (source / "f").write_text("brand")
        assert (mount / "f").read_text() == "brand"
        (source / "f").unlink()
        assert not (mount / "f").exists()
        assert os.listdir(mount) == []


def test_absence_is_never_remembered(tmp_path: Path) -> None:
    """With the real client's kernel cache a name that was missing is still found as soon as it is there."""
    source = tmp_path / "source"
    source.mkdir()
    with standin(source, tmp_path / "mount", kcache=60) as running:
        assert not (running.mountpoint / "late").exists()
        (source / "late").touch()
        assert (running.mountpoint / "late").exists()


def test_the_kernel_cache_spares_the_client(tmp_path: Path) -> None:
    """With a kernel cache the second stat of a name does not come through, and without it does."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "f").touch()
    seen = {}
    for kcache in (0, 60):
        with standin(source, tmp_path / "mount", kcache=kcache) as running:
            for _ in range(5):
                os.stat(running.mountpoint / "f")
            seen[kcache] = running.counters().paths["/f"]["getattr"]
    assert seen[0] >= 5
    assert seen[60] == 1


def test_operations_are_counted_by_kind_and_path(tmp_path: Path) -> None:
    """The counters name each operation on each path since the last reset, bytes of the name kept."""
    source = tmp_path / "source"
    source.mkdir()
    odd = source / os.fsdecode(b"odd-\xff")
    odd.write_text("content")
    with standin(source, tmp_path / "mount") as running:
        os.listdir(running.mountpoint)
        assert running.counters().paths["/"]["readdir"] == 1
        while "releasedir" not in running.counters().operations:  # the kernel sends it after close returned
            time.sleep(0.01)
        running.reset()
        assert running.counters().operations == {}
        assert (running.mountpoint / odd.name).read_text() == "content"
        with pytest.raises(FileNotFoundError):
            os.stat(running.mountpoint / "absent")
        counts = running.counters()
        assert counts.paths[f"/{odd.name}"]["open"] == 1
        assert counts.paths[f"/{odd.name}"]["read"] >= 1
        assert counts.paths["/absent"] == {"getattr": 1}
        assert "readdir" not in counts.operations
        for operation, total in counts.operations.items():
            assert total == sum(by_name.get(operation, 0) for by_name in counts.paths.values())


def test_a_request_that_is_not_understood_is_answered(served: Standin) -> None:
    """The control socket says what is wrong and goes on serving."""
    for request in (
        {"do": "explode"},
        {"do": "publish", "revision": "eight"},
        {"do": "publish", "hide": ["relative"]},
        {"do": "publish", "before": 1},
        {"do": "fault"},
        {"do": "fault", "kind": "rain"},
        {"do": "fault", "kind": "stall", "seconds": "long"},
        {"do": "clear", "path": 3},
        ["counters"],
        None,
    ):
        with pytest.raises(ValueError, match=r"^request .*: not understood .*; say counters"):
            served.ask(request)
    assert served.counters().operations


def test_concurrent_readers_get_their_own_bytes_and_are_all_counted(tmp_path: Path) -> None:
    """Sixteen readers at once: each reads its file whole, and no operation is lost from the counters."""
    source = tmp_path / "source"
    source.mkdir()
    contents = {f"f{number}": os.urandom(100_000 + number) for number in range(16)}
    for name, content in contents.items():
        (source / name).write_bytes(content)
    with standin(source, tmp_path / "mount") as running, ThreadPoolExecutor(16) as pool:
        for _ in range(10):
            read = pool.map(lambda name: (running.mountpoint / name).read_bytes(), contents)
            assert list(read) == list(contents.values())
        assert running.counters().operations["open"] == 160
