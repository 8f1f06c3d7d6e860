"""Real podmans of three generations, as root and as an ordinary user, each with everything of its own.

A podman here is a set of namespaces with a root of that Debian, with storage and configuration in the places where an
administrator has them: ``/etc/containers``, ``/var/lib/containers/storage``, ``~/.local/share/containers/storage``.
Containers have the host's network and no cgroups; a test's registry is reached on the loopback, without TLS.
"""

import http.client
import json
import os
import resource
import select
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from tests.engines import podmanroot
from tests.engines.podmanroot import HOME, UID
from tests.engines.podmanspace import PATH, Bind, Space, space
from tests.engines.process import GRACE, Daemon, EngineError, walk_descendants

__all__ = ["PODMANS", "Bind", "Podman", "Result", "Service", "rootless_problem", "running_podman"]

PODMANS: Final = tuple(podmanroot.SUITES)

_STORAGE: Final = {False: Path("/var/lib/containers/storage"), True: Path(HOME, ".local/share/containers/storage")}
_RUNTIME: Final = {False: "/run", True: f"/run/user/{UID}"}
_BEFORE_5_8: Final = ("4.3", "5.4")
_LIMIT: Final = 65536


@dataclass(frozen=True, slots=True)
class Result:
    """What a program said; bytes that are not UTF-8 are kept as surrogates (`os.fsencode` brings them back)."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class Podman:
    """A podman that is ready for commands. ``directory`` keeps its storage and its configuration."""

    version: str
    rootless: bool
    directory: Path
    space: Space

    @property
    def storage(self) -> Path:
        """Where the graph root is on the host; inside it is at its usual place."""
        return self.directory / "storage"

    @property
    def storage_conf(self) -> Path:
        """The file, inside, that names the stores. skopeo and containers-storage find them everywhere only with
        CONTAINERS_STORAGE_CONF set to it; without, those of 4.3 of root and skopeo of 5.8 of a user do not."""
        own = self.rootless and self.version in _BEFORE_5_8
        return Path(HOME, ".config/containers/storage.conf") if own else Path("/etc/containers/storage.conf")

    def run(self, *arguments: str | Path, check: bool = True, stdin: str = "", timeout: float = 120) -> Result:
        """``podman ARGUMENTS``."""
        return self.exec("podman", *arguments, check=check, stdin=stdin, timeout=timeout)

    def exec(
        self,
        *command: str | Path,
        check: bool = True,
        stdin: str = "",
        timeout: float = 120,
        as_root: bool = False,
    ) -> Result:
        """Any program of the root, as the user of this podman, or as root of the host. Checked: raises EngineError."""
        with tempfile.TemporaryFile() as given:  # not a pipe: of root's, /dev/stdin cannot be opened by the user
            given.write(os.fsencode(stdin))
            given.seek(0)
            if self.rootless and not as_root:
                os.fchown(given.fileno(), UID, UID)
            try:
                done = subprocess.run(
                    self._command(command, as_root), env=self._environment(), stdin=given, timeout=timeout,
                    capture_output=True,
                )  # fmt: skip
            except subprocess.TimeoutExpired as error:
                raise EngineError(f"{self}: {' '.join(map(str, command))!r}: no end within {timeout} s") from error
        result = Result(done.returncode, _text(done.stdout), _text(done.stderr))
        if check and result.returncode:
            said_last = (result.stderr + result.stdout)[-3000:]
            raise EngineError(f"{self}: {' '.join(map(str, command))!r}: ended with {result.returncode}: {said_last}")
        return result

    def inside(self, path: str | Path) -> Path:
        """How a test reaches a path inside from the host: what a container's process sees is at
        ``inside(f"/proc/{pid}/root")``, with the pid that ``podman inspect`` tells."""
        return self.space.inside(path)

    @contextmanager
    def service(self) -> Iterator["Service"]:
        """``podman system service`` for as long as the block runs: one process, which keeps what it has read."""
        address = f"{_RUNTIME[self.rootless]}/service.sock"
        log = self.directory / "service.log"
        command = self._command(("podman", "system", "service", "--time=0", f"unix://{address}"), as_root=False)
        daemon = Daemon(command, self._environment(), log)
        service = Service(self.inside(address))
        try:
            daemon.wait_until(service.is_serving, "serving")
            yield service
        finally:
            for pid in list(walk_descendants(daemon.pid)):  # nsenter would not pass a signal on
                _end(pid)
            daemon.end()

    def __str__(self) -> str:
        return f"podman {self.version} {'of a user' if self.rootless else 'of root'} in {str(self.directory)!r}"

    def _command(self, command: Sequence[str | Path], as_root: bool) -> list[str]:
        user = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--init-groups", "--"]
        return self.space.command(*(user if self.rootless and not as_root else []), *command)

    def _environment(self) -> dict[str, str]:
        own = {"HOME": HOME, "XDG_RUNTIME_DIR": _RUNTIME[True]} if self.rootless else {"HOME": "/root"}
        return {"PATH": PATH, "LANG": "C.UTF-8", "PODMAN_IGNORE_CGROUPSV1_WARNING": "1", **own}


@dataclass(frozen=True, slots=True)
class Service:
    """The HTTP API of a running podman."""

    socket: Path

    def get(self, path: str) -> Any:
        """The JSON at a path of the Docker API (``/images/json``) or podman's own (``/v4.0.0/libpod/…``)."""
        status, body = self.request("GET", path)
        if status != http.client.OK:
            raise EngineError(f"podman's service: GET {path!r}: {status}: {_text(body)[:1000]}")
        return json.loads(body)

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and body of the answer; a body that is sent is JSON."""
        connection = _UnixConnection(self.socket)
        try:
            connection.request(method, path, body, {} if body is None else {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def is_serving(self) -> bool:
        try:
            return self.request("GET", "/_ping")[0] == http.client.OK
        except (OSError, http.client.HTTPException):
            return False


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@contextmanager
def running_podman(
    version: str,
    directory: Path,
    *,
    stores: Sequence[Path] = (),
    layer_stores: Sequence[Path] = (),
    binds: Sequence[Bind] = (),
    rootless: bool = False,
    mount_program: Literal["fuse-overlayfs"] | None = None,
    mountopt: str = "nodev",
) -> Iterator[Podman]:
    """A podman of that version, a name of `PODMANS`, that knows these additional stores.

    ``directory`` is made if it is missing; a later podman of the same version and user finds its images there. Stores
    are seen at their own paths, read-only unless ``binds`` has them otherwise; what their links point to must be among
    ``binds``. At the end every container is killed, and no mount is left.
    """
    storage = directory / "storage"
    storage.mkdir(parents=True, exist_ok=True)
    if rootless:
        os.chown(storage, UID, UID)
    named = {bind.place for bind in binds}
    shown = [Bind(path, read_only=True) for path in (*stores, *layer_stores) if path not in named]
    every = [Bind(storage, _STORAGE[rootless]), *binds, *shown]
    setup = _configure(version, rootless, directory, _options(stores, layer_stores, mount_program, mountopt))
    with space(podmanroot.root(version), directory, every, setup) as running:
        yield Podman(version, rootless, directory, running)


def _setup(etc: Path, own: Path) -> str:
    """What an administrator, a user and a login do before podman's first run."""
    home, runtime, below = HOME.lstrip("/"), _RUNTIME[True].lstrip("/"), str(_STORAGE[True]).lstrip("/")
    return (
        f"mkdir -p etc/containers; cp -r {shlex.quote(str(etc))}/. etc/containers\n"
        f"mkdir -p {below} {home}/.config/containers; cp -r {shlex.quote(str(own))}/. {home}/.config/containers\n"
        f"chown -R {UID}:{UID} {home}\n"
        f"mkdir -p {runtime}; chown {UID}:{UID} {runtime}; chmod 700 {runtime}\n"
    )


def _configure(version: str, rootless: bool, directory: Path, options: Sequence[str]) -> str:
    """Write the files of ``/etc/containers`` and of the user's; the commands that put them there.

    Before 5.8 a storage.conf must name both paths, and a user's podman takes stores and options only from a file of the
    user's. 5.8 takes all from the administrator's, but would take these two paths for the user's too.
    """
    etc, own = directory / "etc", directory / "config"
    for place in (etc, own):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
    old = version in _BEFORE_5_8
    (etc / "storage.conf").write_text(_storage(False, old, options))
    if rootless and old:
        (own / "storage.conf").write_text(_storage(True, old, options))
    (etc / "containers.conf").write_text(_CONTAINERS.format(limits=json.dumps(_limits())))
    (etc / "registries.conf").write_text('[[registry]]\nlocation = "127.0.0.1"\ninsecure = true\n')
    (etc / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}\n')
    return _setup(etc, own)


def _storage(rootless: bool, paths: bool, options: Sequence[str]) -> str:
    named = {"graphroot": str(_STORAGE[rootless]), "runroot": f"{_RUNTIME[rootless]}/containers/storage"}
    lines = (f"{name} = {json.dumps(value)}" for name, value in named.items() if paths)
    return "\n".join(["[storage]", 'driver = "overlay"', *lines, *options, ""])


def _options(
    stores: Sequence[Path], layer_stores: Sequence[Path], mount_program: str | None, mountopt: str
) -> list[str]:
    """Lines of a storage.conf. (A JSON string is a TOML string.)"""
    general = {"additionalimagestores": stores, "additionallayerstores": layer_stores}
    overlay = {"mountopt": mountopt, "mount_program": f"/usr/bin/{mount_program}" if mount_program else ""}
    return [
        "[storage.options]",
        *(f"{name} = {json.dumps([str(path) for path in value])}" for name, value in general.items() if value),
        "[storage.options.overlay]",
        *(f"{name} = {json.dumps(value)}" for name, value in overlay.items() if value),
    ]


def _limits() -> list[str]:
    """Podman asks for more than this machine's root may have; what this process has is always allowed."""
    kinds = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
    allowed = {name: resource.getrlimit(kind)[1] for name, kind in kinds.items()}
    capped = {name: _LIMIT if hard == resource.RLIM_INFINITY else min(hard, _LIMIT) for name, hard in allowed.items()}
    return [f"{name}={limit}:{limit}" for name, limit in capped.items()]


_CONTAINERS: Final = """
[containers]
cgroups = "disabled"
netns = "host"
default_ulimits = {limits}
keyring = false
apparmor_profile = "unconfined"
label = false
log_driver = "k8s-file"

[engine]
runtime = "crun"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


def _end(pid: int) -> None:
    """Ask a process to end, and wait until it did or its namespaces' end must do it."""
    with suppress(ProcessLookupError):
        process = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(process, signal.SIGTERM)
            select.select([process], [], [], GRACE)
        finally:
            os.close(process)


def _text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


def rootless_problem() -> str:
    """Why an ordinary user cannot have a user namespace here, or nothing."""
    for name, refusing in (("user/max_user_namespaces", "0"), ("kernel/unprivileged_userns_clone", "0"),
                           ("kernel/apparmor_restrict_unprivileged_userns", "1")):  # fmt: skip
        try:
            value = Path("/proc/sys", name).read_text().strip()
        except FileNotFoundError:
            continue
        if value == refusing:
            return f"/proc/sys/{name} is {value}: users may have no user namespaces"
    return ""
