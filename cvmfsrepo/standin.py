"""A directory served as a CVMFS client serves a repository: the stand-in of a mount, for the demo and the tests.

What it imitates was measured on the real client (2.12), because a stand-in that is kinder than the original proves
nothing: the mount is read-only and reports a name length of 0, which turns an overlay of nothing but such lowers
into one that answers ENAMETOOLONG; every name has a link count of 1 and an inode of its own; the magic attributes
answer on directories and regular files and are listed on the root alone; one time stands for all three.
Everything else (modes, owners, devices, extended attributes, names of any bytes) is the source's, untouched.

It must run as root (allow_other, `trusted.*`), needs libfuse2, and stays in the foreground. SIGTERM, SIGINT, SIGHUP
and the end of the `--parent` process detach the mount and end it, also under a live overlay, which then sees
ENOTCONN. Only SIGKILL leaves a dead mount behind: `umount -l` removes it.
"""

import argparse
import errno
import functools
import hashlib
import os
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from cvmfsrepo.faults import Faults
from cvmfsrepo.standin_control import listen
from cvmfsrepo.standin_process import ask_for_parallel_lookups, end_on_signal, end_with_parent, forget_names

#: fusepy wants text: latin-1 is the encoding in which every byte string is a text and comes back unharmed.
WIRE = "latin-1"
#: The inode number is a function of the name, so hard links differ, d_ino agrees with st_ino and a restart changes
#: nothing. 48 bits leave overlayfs its high bits (xino) and make a collision improbable (1e-5 at 100,000 names).
INODE_BYTES = 6
STATFS = ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail")
#: What a client says that has had an easy life.
EASY_LIFE = {
    "user.tag": "trunk", "user.version": "2.12.0.0", "user.proxy": "DIRECT", "user.expires": "4", "user.nclg": "1",
    "user.catalog_counters": "self_regular: 0\n", "user.repo_counters": "self_regular: 0\n", "user.nioerr": "0",
    "user.timestamp_last_ioerr": "0", "user.ndownload": "0", "user.rx": "0", "user.speed": "0", "user.hitrate": "100",
    "user.usedfd": "0", "user.maxfd": "65536",
}  # fmt: skip
#: Answered from memory, whatever became of the server: an answering user.revision proves nothing.
REMEMBERED = frozenset(EASY_LIFE) | {f"user.{name}" for name in ("fqrn", "revision", "root_hash", "host", "pid")}


class Counters:
    """How often each operation reached us, by operation and path; exact under concurrent callers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, operation: str, path: str) -> None:
        with self._lock:
            self._counts[operation, path] += 1

    def reset(self) -> None:
        with self._lock:
            self._counts.clear()

    def read(self) -> dict[str, object]:
        """`operations`: count by operation; `paths`: count by operation by path, odd bytes as surrogates."""
        with self._lock:
            counts = list(self._counts.items())
        operations: Counter[str] = Counter()
        paths: dict[str, dict[str, int]] = {}
        for (operation, path), count in counts:
            operations[operation] += count
            paths.setdefault(os.fsdecode(path.encode(WIRE)), {})[operation] = count
        return {"operations": dict(operations), "paths": paths}


@dataclass(slots=True)
class StandIn:
    """The file system: fusepy calls it with an operation's name, and a public method is an operation. Whatever writes
    has no method: the mount is read-only, so the kernel answers EROFS before asking us."""

    source: bytes
    fqrn: str
    revision: int
    owner: tuple[int, int] | None = None
    whole_seconds: bool = False
    counters: Counters = field(default_factory=Counters)
    faults: Faults = field(default_factory=Faults)
    hidden: frozenset[str] = frozenset()
    """Paths that the source has and this revision has not."""
    workers: AbstractContextManager[object] = field(default_factory=nullcontext)
    """Entered for each operation: a semaphore bounds how many are served at one time."""
    forget_names: Callable[[], None] = lambda: None
    """Called at a new revision: whatever the kernel remembers of the last one."""
    started: float = field(default_factory=time.monotonic)
    use_ns: ClassVar[bool] = True  # fusepy: times are whole nanoseconds

    def __call__(self, operation: str, path: str, *arguments: object) -> object:
        """The one place through which every operation passes: it is counted, meets the faults, then is served."""
        if operation == "init":
            self.init(path)
            return None
        self.counters.add(operation, path)
        with self.workers:
            remembered = operation == "statfs" or (operation == "getxattr" and arguments[0] in REMEMBERED)
            self.faults.meet(operation, path, remembered)
            return getattr(self, operation)(path, *arguments)

    def publish(self, revision: int | None, hide: frozenset[str], show: frozenset[str]) -> None:
        """Apply a new catalog: the next revision, or this one, without some paths and with others again."""
        self.hidden = (self.hidden | hide) - show
        self.revision = self.revision + 1 if revision is None else revision
        self.forget_names()

    def init(self, path: str) -> None:
        """The kernel's greeting, which is no access to anything."""
        import fuse

        ask_for_parallel_lookups(fuse._libfuse)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        """Also the answer to a lookup. Files have a link count of 1 and the inode of their name, so no caller sees that
        two names are one file; a directory's count is the source's."""
        found = os.lstat(self._real(path))
        uid, gid = self.owner or (found.st_uid, found.st_gid)
        when = found.st_mtime_ns - (found.st_mtime_ns % 10**9 if self.whole_seconds else 0)
        return {
            "st_mode": found.st_mode, "st_uid": uid, "st_gid": gid, "st_ino": _inode(path),
            "st_nlink": found.st_nlink if stat.S_ISDIR(found.st_mode) else 1, "st_rdev": found.st_rdev,
            "st_size": found.st_size, "st_blocks": found.st_blocks, "st_blksize": found.st_blksize,
            "st_mtime": when, "st_ctime": when, "st_atime": when,
        }  # fmt: skip

    def readlink(self, path: str) -> str:
        return os.readlink(self._real(path)).decode(WIRE)

    def open(self, path: str, flags: int) -> int:
        return os.open(self._real(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def release(self, path: str, fh: int) -> None:
        os.close(fh)

    def opendir(self, path: str) -> int:
        return os.open(self._real(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def readdir(self, path: str, fh: int) -> Iterator[tuple[str, dict[str, int], int]]:
        """Each entry with its type: overlayfs recognises a whiteout in a listing by the device type, not by a stat."""
        for name, directory in ((".", path), ("..", os.path.dirname(path))):
            yield name, {"st_mode": stat.S_IFDIR, "st_ino": _inode(directory)}, 0
        with os.scandir(fh) as entries:
            for entry in entries:
                name = os.fsencode(entry.name).decode(WIRE)
                child = f"{path.rstrip('/')}/{name}"
                if child not in self.hidden:
                    yield name, {"st_mode": _file_type(entry), "st_ino": _inode(child)}, 0

    def releasedir(self, path: str, fh: int) -> None:
        os.close(fh)

    def statfs(self, path: str) -> dict[str, int]:
        """The source's numbers but for the name length, which the real client leaves at 0."""
        found = os.statvfs(self.source)
        return {name: getattr(found, name) for name in STATFS} | {"f_namemax": 0}

    def listxattr(self, path: str) -> list[str]:
        names = os.listxattr(self._real(path), follow_symlinks=False)
        own = [os.fsencode(name).decode(WIRE) for name in names]
        return own + list(self._repository_attributes()) if path == "/" else own

    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        """A magic attribute hides one of the same name that the source has; ENODATA where there is neither."""
        real = self._real(path)
        if name.startswith("user.") and (magic := self._magic_attribute(real, name)):
            return magic.encode()
        try:
            return os.getxattr(real, name.encode(WIRE), follow_symlinks=False)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:  # the source's file system has no attributes; a catalog has
                raise OSError(errno.ENODATA, os.strerror(errno.ENODATA)) from error
            raise

    def _magic_attribute(self, real: bytes, name: str) -> str | None:
        """Only directories and regular files come here: on all else the kernel itself answers ENODATA to `user.*`."""
        if name in ("user.hash", "user.lhash", "user.chunks") and stat.S_ISREG(os.lstat(real).st_mode):
            if name == "user.chunks":
                return "1"
            with open(real, "rb") as content:
                return hashlib.file_digest(content, "sha1").hexdigest()
        return self._repository_attributes().get(name)

    def _repository_attributes(self) -> dict[str, str]:
        server = f"http://127.0.0.1/cvmfs/{self.fqrn}"
        root_hash = hashlib.sha1(f"{self.fqrn} {self.revision}".encode()).hexdigest()
        uptime = str(int(time.monotonic() - self.started) // 60)
        return EASY_LIFE | {
            "user.fqrn": self.fqrn, "user.revision": str(self.revision), "user.root_hash": root_hash,
            "user.host": server, "user.host_list": server, "user.pid": str(os.getpid()), "user.uptime": uptime,
        }  # fmt: skip

    def _real(self, path: str) -> bytes:
        if self.hidden and any(path == hidden or path.startswith(hidden + "/") for hidden in self.hidden):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return self.source + path.encode(WIRE)


def _inode(path: str) -> int:
    return int.from_bytes(hashlib.blake2b(path.encode(WIRE), digest_size=INODE_BYTES).digest())


def _file_type(entry: os.DirEntry[str]) -> int:
    """The type bits of the mode, from the listing itself where possible: no stat for the common three."""
    if entry.is_symlink():
        return stat.S_IFLNK
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    if entry.is_file(follow_symlinks=False):
        return stat.S_IFREG
    return stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)


def serve(standin: StandIn, mountpoint: Path, kcache: float, negative: float) -> None:
    """Mount and serve until somebody unmounts it."""
    import fuse  # here: it loads libfuse2, whose absence is for main() to tell

    fuse.FUSE(
        standin, os.fsencode(mountpoint).decode(WIRE), encoding=WIRE, foreground=True, fsname="cvmfs2",
        ro=True, nosuid=True, nodev=True, default_permissions=True, allow_other=True, use_ino=True,
        entry_timeout=kcache, attr_timeout=kcache, negative_timeout=negative,
        auto_cache=True, ac_attr_timeout=0,  # pages are kept between opens as long as size and mtime stand
    )  # fmt: skip


def _owner(text: str) -> tuple[int, int]:
    uid, _, gid = text.partition(":")
    return int(uid), int(gid)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="cvmfsrepo.standin", description=(__doc__ or "").partition("\n")[0])
    option = parser.add_argument
    option("source", type=Path, help="directory to serve")
    option("mountpoint", type=Path, help="existing directory to mount it on")
    option("--fqrn", default="unpacked.example.org", help="name of the repository [%(default)s]")
    option("--revision", type=int, default=1, metavar="N", help="user.revision [%(default)s]")
    option("--claim", type=_owner, metavar="UID:GID", help="show this owner on everything")
    option("--whole-seconds", action="store_true", help="cut mtimes to seconds, as a catalog does")
    keep = "how long the kernel keeps names and attributes [%(default)s, as with the real client]"
    option("--kcache", type=float, default=60.0, metavar="SECONDS", help=keep)
    absence = "how long the kernel keeps a name's absence, at most until the next revision [%(default)s; real: 60]"
    option("--negative", type=float, default=0.0, metavar="SECONDS", help=absence)
    option("--workers", type=int, metavar="N", help="serve so many operations at one time [no limit]")
    option("--control", type=Path, metavar="SOCKET", help="answer on this unix socket")
    option("--parent", type=int, metavar="PID", help="end when this process ends")
    return parser.parse_args()


def main() -> str | None:
    """Serve until told to end; returns what went wrong, for SystemExit."""
    given = parse_arguments()
    source, mountpoint = given.source.absolute(), given.mountpoint.absolute()
    for directory in (source, mountpoint):
        try:
            os.scandir(directory).close()
        except OSError as error:
            dead = error.errno == errno.ENOTCONN
            advice = "a dead mount goes with umount -l" if dead else "create it or name another"
            return f"directory {str(directory)!r}: {error.strerror}; {advice}"
    standin = StandIn(os.fsencode(source), given.fqrn, given.revision, given.claim, given.whole_seconds)
    standin.forget_names = functools.partial(forget_names, mountpoint)
    if given.workers is not None:
        standin.workers = threading.BoundedSemaphore(given.workers)
    end_on_signal(mountpoint)
    try:
        if given.parent is not None:
            end_with_parent(given.parent)
        if given.control is not None:
            listen(standin, given.control.absolute())
        serve(standin, mountpoint, given.kcache, given.negative)
    except (OSError, RuntimeError) as error:
        need = "it takes root, /dev/fuse, and libfuse2 installed or named by FUSE_LIBRARY_PATH"
        return f"stand-in on {str(mountpoint)!r}: cannot serve ({error}); {need}"
    return None


if __name__ == "__main__":
    raise SystemExit(main())
