"""The facts of this node, gathered: the one file of the doctor that touches it.

Nothing is changed but for two files that are made and removed at once in the daemon's own directory, to see whether
they can be made. What cannot be learnt is left out of the facts; the checks say so.
"""

import contextlib
import os
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cvmfsrepo import xattrs
from cvmfsrepo.access import Access, DeadlineExpired
from cvmfsrepo.errors import ContractError, NotFound, Unavailable
from cvmfsrepo.layout import Layout
from cvmfsrepo.reasons import Reason
from cvmfsrepo.repository import Repository
from snapshotter.admin.address import admin_address
from snapshotter.admin.client import AdminClient
from snapshotter.client import Client
from snapshotter.config import Config, RepositoryConfig
from snapshotter.doctor.mountinfo import Mount, mount_of, parse_mounts
from snapshotter.doctor.settings import parse_settings, setting_files
from snapshotter.doctor.values import (
    EngineFacts,
    Facts,
    KernelFacts,
    RepositoryFacts,
    SocketFacts,
    StateFacts,
    UnitFacts,
)
from snapshotter.engineconfig import program
from snapshotter.engineconfig.distributions import Distribution, detect
from snapshotter.engineconfig.generator import PLUGIN
from snapshotter.engineconfig.reading import EngineConfig, parse_config
from snapshotter.engineconfig.versions import Version
from snapshotter.kernel import in_user_namespace

_BOOLEANS = ("container_use_cvmfs", "virt_use_fusefs", "virt_sandbox_use_fusefs")
_PATIENCE = 5.0
_SYSTEM = Path("/")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says about the engine, in place of what would be found; empty where it says nothing."""

    containerd: str = ""
    config: str = ""
    version: Version | None = None


def gather(config: Config, asked: Asked, system: Path = _SYSTEM) -> Facts:
    """All facts. `system` is where /etc, /proc, /sys and a distribution's paths are found."""
    engine = engine_facts(asked, system)
    repositories = tuple(repository_facts(one, config.deadline, system) for one in config.served)
    return Facts(
        config, os.geteuid() == 0, engine, socket_facts(config.address), unit_facts(engine.distribution, system),
        state_facts(Path(config.root), system), kernel_facts(system), repositories, _largest_image(config),
    )  # fmt: skip


def engine_facts(asked: Asked, system: Path = _SYSTEM) -> EngineFacts:
    """containerd's version and configuration: as its program tells, else as far as its file says."""
    distribution = detect(lambda path: (system / path.lstrip("/")).exists())
    path = asked.config or distribution.config
    found = program.find_program([asked.containerd] if asked.containerd else distribution.programs)
    problems: list[str] = []
    release, written, effective = asked.version, None, None
    with _noted(problems):
        written = _written(path)
    if found:
        with _noted(problems):
            release = release or program.ask_version(found)
            effective = parse_config(program.dump_config(found, path), f"{path} as containerd reads it")
    return EngineFacts(distribution, found, release, path, written, effective, "; ".join(problems))


@contextlib.contextmanager
def _noted(problems: list[str]) -> Iterator[None]:
    """An error ends the block and is kept as a sentence."""
    try:
        yield
    except ContractError as error:
        problems.append(str(error))


def _written(path: str) -> EngineConfig | None:
    try:
        return parse_config(Path(path).read_text(errors="replace"), path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unavailable("containerd configuration", path, f"cannot be read ({error.strerror})") from None


def socket_facts(address: str) -> SocketFacts:
    """What is at the daemon's address, and whether a snapshotter answers there."""
    try:
        status = os.lstat(address)
    except PermissionError:
        return SocketFacts("hidden")
    except OSError:
        return SocketFacts("missing")
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISSOCK(status.st_mode):
        return SocketFacts("other", mode=mode, uid=status.st_uid)
    if not os.access(address, os.W_OK):
        return SocketFacts("hidden")
    return SocketFacts("socket", _why_silent(address), mode, status.st_uid)


def _why_silent(address: str) -> str:
    """Empty where a snapshotter answers; gRPC alone would not tell a dead socket from a slow one at once."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PATIENCE)
        try:
            probe.connect(address)
        except OSError as error:
            return error.strerror or str(error)
    with Client(address, timeout=_PATIENCE) as client:
        try:
            client.stat("doctor: a name that nothing has")
        except NotFound:
            return ""
        except ContractError as error:
            return str(error)
    return ""


def unit_facts(distribution: Distribution, system: Path = _SYSTEM) -> UnitFacts:
    """Our service and the engine's, where systemd runs."""
    if not (system / "run/systemd/system").is_dir():
        return UnitFacts()
    names = [f"{PLUGIN}.service", *distribution.units]
    try:
        said = program.said_by(["systemctl", "show", "-p", "Id,LoadState,UnitFileState,Before", *names])
    except ContractError:
        return UnitFacts()
    ours, *engines = [parse_settings(block) for block in said.strip().split("\n\n")]
    return UnitFacts(
        known=True,
        loaded=ours.get("LoadState") == "loaded",
        enabled=ours.get("UnitFileState", "") in ("enabled", "enabled-runtime", "generated", "static", "indirect"),
        before=frozenset(ours.get("Before", "").split()),
        engine_units=frozenset(one["Id"] for one in engines if one.get("LoadState") == "loaded" and "Id" in one),
    )


def state_facts(root: Path, system: Path = _SYSTEM) -> StateFacts:
    """The file system of the root, and what can be made in it."""
    probed = root
    while not probed.is_dir() and probed != probed.parent:
        probed = probed.parent
    mount = mount_of(os.path.realpath(probed), _mounts(system))
    try:
        size = os.statvfs(probed)
    except OSError:
        return StateFacts(str(probed), mount.type if mount else "")
    whiteout, attribute = _trials(root) if os.access(root, os.W_OK) and root.is_dir() else (None, None)
    return StateFacts(
        str(probed), mount.type if mount else "", size.f_bavail * size.f_frsize, size.f_blocks * size.f_frsize,
        size.f_favail, size.f_files, whiteout, attribute,
    )  # fmt: skip


def _trials(root: Path) -> tuple[str, str]:
    """Why a 0:0 device, and why a user.* attribute, cannot be made below the root; empty where they can."""
    try:
        with tempfile.TemporaryDirectory(prefix="doctor-", dir=root) as directory:
            device = _failure_of(lambda: os.mknod(f"{directory}/whiteout", 0o600 | stat.S_IFCHR, os.makedev(0, 0)))
            return device, _failure_of(lambda: xattrs.write(directory, "user.doctor", b"y"))
    except OSError as error:
        return error.strerror or str(error), ""


def _failure_of(trial: Callable[[], object]) -> str:
    try:
        trial()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def kernel_facts(system: Path = _SYSTEM) -> KernelFacts:
    """What the kernel can do, and SELinux's say."""
    names = _text(system / "proc/filesystems").split()
    release = os.uname().release
    modules = system / "lib/modules" / release / "kernel/fs/overlayfs"
    overlay = True if "overlay" in names else None if modules.is_dir() or not names else False
    enforce = _text(system / "sys/fs/selinux/enforce").strip()
    booleans = {name: _text(system / "sys/fs/selinux/booleans" / name)[:1] for name in _BOOLEANS}
    return KernelFacts(
        release, overlay, (system / "sys/module/overlay/parameters/index").exists(), in_user_namespace(system),
        {"1": "enforcing", "0": "permissive"}.get(enforce, ""),
        {name: value == "1" for name, value in booleans.items() if value},
    )  # fmt: skip


def repository_facts(one: RepositoryConfig, deadline: float, system: Path = _SYSTEM) -> RepositoryFacts:
    """A repository and its mount. It is touched first, for autofs mounts it then, and only under a deadline."""
    repository, access = Repository(one.name, Layout(one.root)), Access(deadline, workers=2)
    known = RepositoryFacts(one.name, str(one.root), settings=client_settings(one.name, system))
    try:
        missing = access.call(lambda: repository.why_missing("-"))
        problem = "" if missing.reason is Reason.ABSENT else f"{missing.reason}: {missing.detail}"
        real = access.call(lambda: os.path.realpath(one.root))
        known = replace(known, problem=problem, mount=mount_of(real, _mounts(system)))
        if problem:
            return known
        access.call(lambda: _listed(repository.layout.layers))
        listed = access.call(lambda: tuple(xattrs.read_all(repository.layout.layers)))
        return replace(known, revision=access.call(repository.find_revision), listed=listed)
    except (DeadlineExpired, OSError) as error:
        return replace(known, problem=known.problem or str(error), mount=mount_of(str(one.root), _mounts(system)))


def _listed(directory: Path) -> None:
    """Opens it and reads an entry: what the kernel remembers of a dead client's directory is no answer."""
    with os.scandir(directory) as entries:
        next(entries, None)


def client_settings(name: str, system: Path = _SYSTEM) -> Mapping[str, str]:
    """The CVMFS client's settings for a repository: as it tells itself, else as its files say."""
    if tool := program.find_program(["cvmfs_config", "/usr/bin/cvmfs_config"]) if system == _SYSTEM else "":
        with contextlib.suppress(ContractError):
            return parse_settings(program.said_by([tool, "showconfig", name]))
    texts = [_text(path) for path in setting_files(system / "etc/cvmfs", name)]
    return parse_settings("\n".join(texts))


def _largest_image(config: Config) -> int | None:
    """Of those that the daemon's index tells in a few seconds: bytes, compressed."""
    address = admin_address(config)
    if not os.access(address, os.W_OK) or not address.is_socket():
        return None
    end, sizes, largest = time.monotonic() + _PATIENCE, dict[str, int](), 0
    with contextlib.suppress(ContractError), AdminClient(address, _PATIENCE) as client:
        for image in client.walk_images():
            for digest in set(image.layers) - set(sizes):
                sizes[digest] = max((layer.size or 0 for layer in client.get_layers(digest)), default=0)
            largest = max(largest, sum(sizes[digest] for digest in set(image.layers)))
            if time.monotonic() > end:
                break
    return largest or None


def _mounts(system: Path) -> list[Mount]:
    return parse_mounts(_text(system / "proc/self/mountinfo"))


def _text(path: Path) -> str:
    """Empty where it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
