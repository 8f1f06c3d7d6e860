"""A whole Debian with its systemd booted in it, in namespaces of its own: packages are installed into it and removed.

It shares the kernel and the loopback with this machine, and nothing else: its files, processes, mounts and cgroups are
its own, and end with it. So no engine, service or package of this machine is touched.
"""

import contextlib
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.packages.trees import Tree
from tests.privilege.booted import children, own_namespaces
from tests.snapshotter.nodes import eventually

BOOT_SECONDS = 60.0
_MASKED = (
    "console-getty.service",
    "getty.target",
    "systemd-logind.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
)
_INIT = """
set -e
mount --make-rprivate /
{disk}
cd {root}
mount -t proc proc proc
mount --bind proc/sys proc/sys && mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs dev
cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty dev/
ln -s /proc/self/fd dev/fd
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
mount -t cgroup2 cgroup2 sys/fs/cgroup
{binds}
mkdir -p mnt/old
pivot_root . mnt/old
cd /
umount -l /mnt/old
mount --make-rshared /
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --log-target=journal
"""


@dataclass(frozen=True)
class Done:
    """How a command ended, and all that it said."""

    status: int
    said: str


@dataclass(frozen=True)
class Machine:
    """A booted one: `init` is its systemd's number here."""

    init: int

    @property
    def prefix(self) -> Path:
        """What stands here before a path of its own."""
        return Path(f"/proc/{self.init}/root")

    def type(self, command: str, timeout: float = 120) -> Done:
        """One line, typed as root; its two streams as they come."""
        words = ["sh", "-c", f"export LC_ALL=C.UTF-8 HOME=/root; {command}"]
        enter = ["nsenter", "--target", str(self.init), "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--"]
        done = subprocess.run(
            [*enter, "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout,
        )  # fmt: skip
        return Done(done.returncode, done.stdout)

    def say(self, command: str) -> str:
        """What a command that has to succeed says."""
        done = self.type(command)
        assert done.status == 0, (
            f"{command}: ended with {done.status}: {done.said}\n{self.type('journalctl -b').said[-3000:]}"
        )
        return done.said

    def insist(self, command: str, seconds: float = 20.0) -> str:
        """What a command says that may have to be typed again until it succeeds."""
        tries: list[Done] = []

        def succeeded() -> bool:
            tries.append(self.type(command))
            return tries[-1].status == 0

        with contextlib.suppress(AssertionError):
            eventually(succeeded, seconds)
        assert tries[-1].status == 0, f"{command}: after {seconds:g} s: {tries[-1].said}"
        return tries[-1].said

    def shown(self, unit: str, *properties: str) -> list[str]:
        """Properties of a unit."""
        lines = self.say(f"systemctl show {unit} -p {','.join(properties)}").splitlines()
        said = dict(line.split("=", 1) for line in lines)
        return [said[name] for name in properties]


@dataclass(frozen=True)
class Disk:
    """What one machine has written: it may be booted again. `/var/lib` is no part of the overlay, for an overlay can
    have no other's directories to write to."""

    own: Path
    lowers: tuple[Path, ...]

    @property
    def mounts(self) -> str:
        """Lines that mount it at `root` of its own directory."""
        below = ":".join(map(str, self.lowers))
        layers = f"lowerdir={below},upperdir={self.own}/upper,workdir={self.own}/work"
        return (
            f"mount -t overlay -o {layers} machine {self.own}/root\nmount --bind {self.own}/lib {self.own}/root/var/lib"
        )


@contextlib.contextmanager
def disk(base: "Tree | Disk") -> Iterator[Disk]:
    """A new one above a tree, or above another that is not booted meanwhile; it goes with the block."""
    own = Path(tempfile.mkdtemp(prefix="deb-", dir="/tmp"))
    own.chmod(0o755)
    try:
        for name in ("upper", "work", "root"):
            (own / name).mkdir()
        if isinstance(base, Disk):
            library, lowers = base.own / "lib", (base.own / "upper", *base.lowers)
        else:
            library, lowers = base.root() / "var/lib", (base.root(),)
            _prepare(own / "upper")
        subprocess.run(["cp", "-a", str(library), str(own / "lib")], check=True)
        yield Disk(own, lowers)
    finally:
        shutil.rmtree(own)


@contextlib.contextmanager
def booted(written: Disk, binds: Mapping[str, Path] | None = None) -> Iterator[Machine]:
    """Boots it; `binds` are directories of this machine by their places in it, with what is mounted
    there. It is over with the block: everything in it is killed, as by a loss of power."""
    own = Path(tempfile.mkdtemp(prefix="boot-", dir="/tmp"))
    script = _INIT.format(root=f"{written.own}/root", disk=written.mounts, binds=_mounts(binds or {}))
    with own_namespaces(own, f"cvmfs-package-{own.name}", script) as process:
        yield _wait_for_boot(process, own / "console")


def _prepare(upper: Path) -> None:
    """What an installer would have done; nothing that waits for hardware or for the network is started."""
    units = upper / "etc/systemd/system"
    units.mkdir(parents=True)
    (upper / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (upper / "etc/hostname").write_text("node-1\n")
    (upper / "etc/dpkg/dpkg.cfg.d").mkdir(parents=True)
    (upper / "etc/dpkg/dpkg.cfg.d/machine").write_text("force-unsafe-io\n")  # the disk is not kept
    for unit in _MASKED:
        (units / unit).symlink_to("/dev/null")


def _mounts(binds: Mapping[str, Path]) -> str:
    """Lines of the script, in their order."""
    lines = []
    for place, source in binds.items():
        inside = shlex.quote(place.lstrip("/"))
        lines.append(f"mkdir -p {inside}; mount --rbind {shlex.quote(str(source))} {inside}")
    return "\n".join(lines)


def _wait_for_boot(process: "subprocess.Popen[bytes]", console: Path) -> Machine:
    """Until systemd has started all that it was to start."""

    def has_init() -> bool:
        assert process.poll() is None, console.read_text(errors="replace")
        return (
            bool(children(process.pid))
            and b"systemd" in Path(f"/proc/{children(process.pid)[0]}/cmdline").read_bytes().split(b"\0")[0]
        )

    eventually(has_init, BOOT_SECONDS)
    machine = Machine(children(process.pid)[0])
    deadline = time.monotonic() + BOOT_SECONDS
    while (state := machine.type("systemctl is-system-running --wait").said.strip()) not in ("running", "degraded"):
        assert process.poll() is None, console.read_text(errors="replace")
        assert time.monotonic() < deadline, f"{state}: {console.read_text(errors='replace')}"
        time.sleep(0.1)
    return machine
