"""A systemd of its own, first process of its own namespaces, that starts nothing but a unit of ours as it stands in
config/.

It sees its own /run, /var/lib, /var/tmp, /tmp and cgroups, and starts no unit of the host. A drop-in changes only what
the unit cannot know here: where this Python and this working tree are, and where to log.
"""

import contextlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.privilege.unit import UNIT
from tests.snapshotter.layers import NAME

SYSTEMD = Path("/lib/systemd/systemd")
CGROUPS = Path("/sys/fs/cgroup")
START_SECONDS = 30.0
_PROJECT = Path(__file__).resolve().parents[2]

_TARGET = "[Unit]\nDescription=only what is tested\nDefaultDependencies=no\nWants={}\n"

_INIT = """
set -e
mount --make-rprivate /
mount --make-rshared /
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys
mount --bind {own} /srv
mount --make-private /srv
{keep}
mount --make-shared /srv
for place in /run /var/lib /var/tmp /tmp /etc/systemd; do mount -t tmpfs tmpfs $place; done
{show}
unified=$(findmnt -no FSTYPE {cgroups})
umount -l {cgroups}
if [ "$unified" = cgroup2 ]; then mount -t cgroup2 cgroup2 {cgroups}; else
  mount -t tmpfs tmpfs {cgroups} && mkdir {cgroups}/systemd
  mount -t cgroup -o none,name=systemd none {cgroups}/systemd
fi
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH=/srv/units \
  {systemd} --system --unit=default.target --log-target=console
"""


@dataclass(frozen=True)
class Service:
    """A unit, the module and the words that it starts here, and what it says when it is up."""

    unit: Path
    words: tuple[str, ...]
    says: str


NODE = Service(UNIT, ("snapshotter.cli.main", "serve", "--config", "/srv/config.toml"), '"msg": "serving"')


@dataclass(frozen=True)
class Booted:
    """The daemon under systemd: `own` is /srv for it, `outer` the number of the process around systemd."""

    own: Path
    outer: int
    service: Service = NODE

    @property
    def init(self) -> int:
        """The number of systemd."""
        return children(self.outer)[0]

    @property
    def daemon(self) -> int:
        """The number of the daemon's process."""
        (number,) = [pid for pid in children(self.init) if self._module in _command(pid)]
        return number

    @property
    def _module(self) -> bytes:
        return self.service.words[0].encode()

    @property
    def prefix(self) -> str:
        """What stands here before a path that the daemon uses."""
        return f"/proc/{self.daemon}/root"

    def log(self) -> str:
        """What the daemon said."""
        try:
            return (self.own / "log").read_text()
        except FileNotFoundError:
            return ""

    def systemctl(self, *arguments: str) -> str:
        """Asks or tells that systemd about the unit."""
        return self.on_the_host("systemctl", *arguments, self.service.unit.name)

    def on_the_host(self, *command: str) -> str:
        """Runs a command where systemd is: the daemon's host."""
        enter = ("nsenter", "--target", str(self.init), "--mount", "--pid", "--", *command)
        return subprocess.run(enter, capture_output=True, text=True, check=True, timeout=30).stdout


@contextlib.contextmanager
def booted(
    repository: Path = Path("/srv/repository"), config: str = "", drop_in: str = "", until: str = "",
    service: Service = NODE,
) -> Iterator[Booted]:  # fmt: skip
    """Yields when the daemon serves `repository`, or has said something else; `config` and `drop_in` are more lines of
    the node's configuration and of the unit. Skips where there is no systemd or no cgroup to give it."""
    if not SYSTEMD.exists():
        pytest.skip(f"no {SYSTEMD}: install systemd (it need not be what runs this machine)")
    own = Path(tempfile.mkdtemp(prefix="cv-", dir="/tmp"))
    own.chmod(0o755)
    _write_units(own / "units", drop_in, service)
    (own / "repository").mkdir()
    (own / "config.toml").write_text(
        f'repository = "{NAME}"\nabsolute-mountpoint = "{repository}"\ndeadline = 2\n{config}'
    )
    keep, show = _kept_over_the_tmpfs(own)
    script = _INIT.format(own=own, cgroups=CGROUPS, systemd=SYSTEMD, keep=keep, show=show)
    with own_namespaces(own, f"{service.unit.stem}-{own.name}", script) as process:
        found = Booted(own, process.pid, service)
        _wait_until_it_says(until or service.says, found, process)
        yield found


@contextlib.contextmanager
def own_namespaces(own: Path, name: str, script: str) -> Iterator["subprocess.Popen[bytes]"]:
    """The process around a script that becomes the first one of namespaces and a cgroup of its own; what it says is in
    `own/console`. It is killed with the block, with all in it, and `own` goes. Skips where no cgroup can be had."""
    with contextlib.ExitStack() as undo:
        undo.callback(shutil.rmtree, own)
        group = own_cgroups(name, own / "unified")
        undo.callback(_leave_cgroups, group, own / "unified")
        (own / "init").write_text(script)
        join = "".join(f"echo $$ > {shlex.quote(str(path))}/cgroup.procs; " for path in group)
        command = f"{join} exec unshare -m -p -f -u -i -C --kill-child sh {own}/init"
        with (own / "console").open("wb") as console:
            process = subprocess.Popen(["sh", "-c", command], stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        undo.callback(process.wait)
        undo.callback(process.kill)
        yield process


def _needed() -> list[Path]:
    """Directories without which the daemon cannot start here, wherever they are."""
    return sorted({_PROJECT, Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()})


def _kept_over_the_tmpfs(own: Path) -> tuple[str, str]:
    """Commands that bind what is needed to a safe place, and back to where it was: it may be below /tmp."""
    keep, show = [], []
    for number, path in enumerate(_needed()):
        (own / "kept" / f"{number}").mkdir(parents=True)
        place, kept = shlex.quote(str(path)), f"/srv/kept/{number}"
        keep.append(f"mount --bind {place} {kept}; mount -o remount,bind,ro {kept}")
        bind = f"mkdir -p {place}; mount --bind {kept} {place}; mount -o remount,bind,ro {place}"
        show.append(f'[ -n "$(ls -A {place} 2>/dev/null)" ] || {{ {bind}; }}')
    return "\n".join(keep), "\n".join(show)


def _write_units(units: Path, drop_in: str, service: Service) -> None:
    unit = service.unit
    (units / f"{unit.name}.d").mkdir(parents=True)
    shutil.copy(unit, units)
    (units / "default.target").write_text(_TARGET.format(unit.name))
    (units / f"{unit.name}.d" / "more.conf").write_text(drop_in)
    hidden = [path for path in _needed() if path.parts[1] in ("root", "home", "tmp", "var")]
    home = "".join(f"BindReadOnlyPaths={path}\n" for path in hidden)
    if any(path.parts[1] in ("root", "home") for path in hidden):
        home += "ProtectHome=tmpfs\n"
    (units / f"{unit.name}.d" / "here.conf").write_text(
        f"[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=\n"
        f"ExecStart={sys.executable} -m {' '.join(service.words)}\n"
        f"WorkingDirectory={_PROJECT}\nStandardOutput=append:/srv/log\nStandardError=append:/srv/log\n{home}"
    )


def _wait_until_it_says(said: str, found: Booted, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while said not in found.log():
        if process.poll() is not None or time.monotonic() > deadline:
            console = (found.own / "console").read_text(errors="replace")
            raise AssertionError(f"systemd did not start the daemon: {console}\n{found.log()}")
        time.sleep(0.05)


def own_cgroups(name: str, unified: Path) -> list[Path]:
    """A cgroup in each hierarchy that systemd manages, so that it moves no process but ours. Where the machine has the
    old hierarchies, systemd mounts the unified one too, for filters of the network: it is mounted at `unified`."""
    hierarchies = [CGROUPS]
    if not (CGROUPS / "cgroup.controllers").exists():
        unified.mkdir()
        subprocess.run(["mount", "-t", "cgroup2", "cgroup2", str(unified)], check=True)
        hierarchies = [CGROUPS / "systemd", unified]
    made = []
    for hierarchy in hierarchies:
        try:
            (hierarchy / name).mkdir()
        except OSError as error:
            if unified.is_mount():
                subprocess.run(["umount", str(unified)], check=True)
            pytest.skip(f"no cgroup for a systemd of its own: {hierarchy}: {error.strerror}")
        made.append(hierarchy / name)
    return made


def _leave_cgroups(groups: list[Path], unified: Path) -> None:
    """They go from the bottom up, once their processes are gone."""
    for group in groups:
        for path in (*sorted((p for p in group.rglob("*") if p.is_dir()), reverse=True), group):
            for _ in range(100):
                try:
                    path.rmdir()
                    break
                except OSError:
                    time.sleep(0.05)
    if unified.is_mount():
        subprocess.run(["umount", str(unified)], check=True)


def children(pid: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
