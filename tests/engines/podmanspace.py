"""Namespaces of their own for an engine that needs a whole root: what it mounts and starts ends with them.

Mounts, processes, ipc, host name and cgroups are private; the network is the host's, for registries on the loopback.
A chroot would not do: the kernel refuses user namespaces in one, and runtimes want the root to be a mount point.
"""

import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.engines.process import Daemon, EngineError, kill

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_NAMESPACES: Final = ("--mount", "--pid", "--ipc", "--uts", "--cgroup")

# The first process of the namespaces. The root is an overlay, so that many share what is below, and its upper is in
# memory. crun refuses cgroups in hybrid mode, so the second hierarchy goes. The device for FUSE is one that everybody
# may open; the host's is left as it is. At the end the shell stays, and reaps what loses its parent.
_INIT: Final = """
set -e
export PATH={path}
umask 022
mount -t tmpfs -o mode=755 tmpfs {own}
cd {own}
mkdir lower upper work root
mount --bind {lower} lower
mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay root
cd root
mount -t proc proc proc
mount --rbind /sys sys
if mountpoint -q sys/fs/cgroup/unified; then umount sys/fs/cgroup/unified; fi
mount -t tmpfs -o mode=755 tmpfs dev
for node in null zero full random urandom tty; do : > dev/$node; mount --bind /dev/$node dev/$node; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for number in 0:stdin 1:stdout 2:stderr; do ln -s /proc/self/fd/${{number%:*}} dev/${{number#*:}}; done
if [ -c /dev/fuse ]; then mknod -m 666 dev/fuse c 10 229; fi
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
{setup}
mkdir -p mnt/old
pivot_root . mnt/old
cd /
umount -l /mnt/old
mount --make-rshared /
echo {ready}
sleep infinity &
wait
"""
_READY: Final = "namespaces are ready"


@dataclass(frozen=True, slots=True)
class Bind:
    """A path of the host that is seen inside, at the same place if no other is named."""

    source: Path
    target: Path | None = None
    read_only: bool = False

    @property
    def place(self) -> Path:
        return self.target or self.source

    def script(self) -> str:
        """Commands for `_INIT`, whose working directory is the new root. Mounts below the source come along."""
        source, place = shlex.quote(str(self.source)), shlex.quote(str(self.place).lstrip("/"))
        if self.source.is_dir():
            make = f"mkdir -p {place}"
        else:
            make = f"mkdir -p {shlex.quote(str(self.place.parent).lstrip('/'))}; : > {place}"
        remount = f"; mount -o remount,bind,ro {place}" if self.read_only else ""
        return f"{make}; mount --rbind {source} {place}{remount}\n"


@dataclass(frozen=True, slots=True)
class Space:
    """Running namespaces; ``pid`` is their first process, as the host counts."""

    pid: int

    def command(self, *command: str | Path) -> list[str]:
        """What to run on the host so that ``command`` runs inside, at the root directory."""
        return [_program("nsenter"), "--target", str(self.pid), *_NAMESPACES, "--", *map(str, command)]

    def inside(self, path: str | Path) -> Path:
        """Where the host's root user finds what is at ``path`` inside. Mounts are followed, links to ``/`` are not."""
        return Path(f"/proc/{self.pid}/root") / str(path).lstrip("/")


@contextmanager
def space(root: Path, own: Path, binds: Sequence[Bind] = (), setup: str = "") -> Iterator[Space]:
    """Namespaces whose root looks like ``root``, which is not written to, with ``binds`` in it.

    ``setup`` are shell commands that run before, in the new root's directory, while the host is still seen. ``own`` is
    a directory of ours; the log of the start stays there. At the end every process inside is killed; the host never saw
    one of the mounts.
    """
    mountpoint = own / "namespace"
    mountpoint.mkdir(exist_ok=True)
    values: Mapping[str, str] = {"own": str(mountpoint), "lower": str(root), "path": PATH, "ready": _READY}
    quoted = {name: shlex.quote(value) for name, value in values.items()}
    script = _INIT.format(**quoted, setup=setup + "".join(bind.script() for bind in binds))
    log = own / "namespace.log"
    log.unlink(missing_ok=True)
    unshare = [_program("unshare"), *_NAMESPACES, "--fork", "--kill-child", "--propagation", "private"]
    daemon = Daemon([*unshare, "sh", "-c", script], os.environ, log)
    try:
        daemon.wait_until(lambda: _READY in log.read_text(), "ready")
        yield Space(_child(daemon.pid))
    finally:
        kill(_children(daemon.pid))
        daemon.end()
        mountpoint.rmdir()


def _program(name: str) -> str:
    if not (found := shutil.which(name)):
        raise EngineError(f"program {name!r}: not found; install util-linux")
    return found


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:  # it ended
        return []


def _child(pid: int) -> int:
    (child,) = _children(pid)
    return child
