"""A private containerd of one of three generations, beside whatever the host runs.

Root, state, sockets, runc's state and CNI configuration are in one short temporary directory, for a unix socket's path
must fit 107 bytes. ``stop`` takes everything down: the daemon, its shims and their containers, its mounts, and the few
empty directories that shims make in ``/run/containerd``.
"""

import fcntl
import json
import os
import platform
import re
import shutil
import signal
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TextIO

import grpc

from protos.cri.runtime.v1 import api_pb2 as api
from protos.cri.runtime.v1 import api_pb2_grpc
from tests.engines import debs, mounts
from tests.engines.process import Daemon, find_processes, kill, walk_descendants

VERSIONS = tuple(debs.CONTAINERD)
PROXY = "cvmfs-snapshotter"
CGROUPS = "cvmfs-engines"
"""Parent of all cgroups that engines make here; taken away by the last engine that stops."""

_PLATFORM = {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A snapshotter behind a socket; ``root`` is the directory that it exports for disk accounting."""

    address: Path
    root: Path
    name: str = PROXY


class Containerd:
    """containerd ``version`` ("1.6", "1.7" or "2.1") with overlayfs, or with a proxy snapshotter for every image."""

    def __init__(
        self,
        version: str,
        sandbox_image: str,
        snapshotter: Proxy | Literal["overlayfs"] = "overlayfs",
        log: Path | None = None,
    ) -> None:
        self.version = version
        self.snapshotter = snapshotter
        self.sandbox_image = sandbox_image
        self.directory = Path(tempfile.mkdtemp(prefix="ctrd-", dir="/tmp"))
        self.socket = self.directory / "c.sock"
        self.log = log or self.directory / "containerd.log"
        self._daemon: Daemon | None = None
        self._presence = _Presence()

    @property
    def snapshotter_name(self) -> str:
        return self.snapshotter.name if isinstance(self.snapshotter, Proxy) else self.snapshotter

    @property
    def root(self) -> Path:
        return self.directory / "root"

    def start(self) -> None:
        self._presence.enter()
        settings = self.directory / "config.toml"
        settings.write_text(self.configuration())
        for name in ("certs.d", "cni"):
            (self.directory / name).mkdir(exist_ok=True)
        program = debs.CONTAINERD[self.version].tool("containerd")
        self._daemon = Daemon([str(program.path), "--config", str(settings)], self._environment(), self.log)
        self._daemon.wait_until(self._is_serving, "serving")

    def restart(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """End the daemon alone and start it again: containers run on."""
        self._end_daemon(with_signal)
        self.start()

    def stop(self) -> None:
        """End everything that runs here, containers too, and take away every mount and the whole directory."""
        self._end_daemon(signal.SIGTERM)
        shims = find_processes(str(self.socket))
        kill([pid for shim in shims for pid in [*walk_descendants(shim), shim]])
        sockets = self._shim_sockets()
        mounts.unmount_below(self.directory)
        for path in sockets:
            path.unlink(missing_ok=True)
        shutil.rmtree(self.directory)
        self._presence.leave()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def ctr(self, *arguments: str | Path, timeout: float = 300) -> str:
        """Standard output of ``ctr``; name the namespace (``-n k8s.io`` has what CRI pulled)."""
        program = debs.Tool(debs.CONTAINERD[self.version].tool("ctr").path, self._environment())
        return program.run("--address", str(self.socket), *arguments, timeout=timeout)

    def configuration(self) -> str:
        """The text of config.toml; how each generation must be told to hand labels to a remote snapshotter."""
        text = _CONFIG_3 if self.version.startswith("2.") else _CONFIG_2
        if isinstance(self.snapshotter, Proxy):
            is_new = self.version.startswith("2.")
            text += _PROXY.replace("@exports@", _EXPORT_3 if is_new else "").replace(
                "@capabilities@", _CAPABILITIES_3 if is_new else ""
            )
            text = text.replace("@address@", str(self.snapshotter.address)).replace(
                "@export@", str(self.snapshotter.root)
            )
        values = {
            "dir": str(self.directory),
            "snapshotter": self.snapshotter_name,
            "sandbox": self.sandbox_image,
            "runc": str(debs.RUNC.tool("runc").path),
            "platform": _PLATFORM[platform.machine()],
        }
        return re.sub(r"@(\w+)@", lambda match: values[match[1]], text)

    def _environment(self) -> dict[str, str]:
        """runc and its libraries are bookworm's for all generations; containerd itself needs only the C library."""
        own = debs.environment(debs.CONTAINERD[self.version].root())
        runc = debs.environment(debs.RUNC.root())
        path = os.pathsep.join([runc["PATH"], own["PATH"]])
        return {**runc, "PATH": path, "TMPDIR": str(self.directory)}

    def _is_serving(self) -> bool:
        """CRI comes up last: until then the socket is missing, or the server "is not initialized yet"."""
        with grpc.insecure_channel(f"unix:{self.socket}") as channel:
            try:
                status = api_pb2_grpc.RuntimeServiceStub(channel).Status(api.StatusRequest(), timeout=20).status
            except grpc.RpcError:
                return False
        return any(condition.type == "RuntimeReady" and condition.status for condition in status.conditions)

    def _end_daemon(self, with_signal: signal.Signals) -> None:
        if self._daemon:
            self._daemon.end(with_signal)
            self._daemon = None

    def _shim_sockets(self) -> list[Path]:
        """Sockets of shims lie outside of our directory; a killed shim leaves its own."""
        found = []
        for name in ("address", "bootstrap.json"):
            for file in (self.directory / "state").glob(f"io.containerd.runtime.v2.task/*/*/{name}"):
                text = file.read_text()
                address = json.loads(text)["address"] if name.endswith(".json") else text
                found.append(Path(address.strip().removeprefix("unix://")))
        return found


class _Presence:
    """Engines in several processes share a few directories of the host; the last one to leave takes them away.

    Only those that were missing when the first one came: a containerd of the host keeps its own.
    """

    def __init__(self) -> None:
        self._lock: TextIO | None = None

    def enter(self) -> None:
        if self._lock is None:
            debs.CACHE.mkdir(exist_ok=True)
            self._lock = (debs.CACHE / "engines.lock").open("a+")
            if _is_alone(self._lock):
                self._lock.truncate(0)
                self._lock.write(json.dumps([str(path) for path in _shared_places() if not path.exists()]))
                self._lock.flush()
            fcntl.flock(self._lock, fcntl.LOCK_SH)

    def leave(self) -> None:
        if self._lock is None:
            return
        with self._lock:
            if _is_alone(self._lock):
                self._lock.seek(0)
                for place in json.load(self._lock):
                    _remove_empty(Path(place))
        self._lock = None


def _is_alone(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _shared_places() -> list[Path]:
    """The deepest first: where cgroups of our pods are, and where every generation's shims and runc have their own."""
    hierarchies = [Path("/sys/fs/cgroup"), *(path for path in Path("/sys/fs/cgroup").iterdir() if path.is_dir())]
    shims = Path("/run/containerd")
    return [*(path / CGROUPS for path in hierarchies), shims / "s", shims / "runc", shims / "fifo", shims]


def _remove_empty(path: Path) -> None:
    """The directories at and below it that hold nothing any more; the kernel says which, of cgroups too."""
    for folder, _, _ in os.walk(path, topdown=False):
        with suppress(OSError):
            os.rmdir(folder)


_COMMON = """
root = "@dir@/root"
state = "@dir@/state"

[grpc]
  address = "@dir@/c.sock"

[plugins."io.containerd.internal.v1.opt"]
  path = "@dir@/opt"
"""

_CONFIG_2 = f"""version = 2
{_COMMON}
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "@sandbox@"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "@dir@/cni"
    conf_dir = "@dir@/cni"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "@dir@/certs.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "@snapshotter@"
    disable_snapshot_annotations = false
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "@runc@"
        Root = "@dir@/runc"
"""

_CONFIG_3 = f"""version = 3
{_COMMON}
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "@snapshotter@"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "@sandbox@"
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = "@dir@/certs.d"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["@dir@/cni"]
    conf_dir = "@dir@/cni"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        BinaryName = "@runc@"
        Root = "@dir@/runc"

[plugins."io.containerd.transfer.v1.local"]
  config_path = "@dir@/certs.d"
  [[plugins."io.containerd.transfer.v1.local".unpack_config]]
    platform = "@platform@"
    snapshotter = "@snapshotter@"

[plugins."io.containerd.nri.v1.nri"]
  disable = true
"""

_PROXY = """
[proxy_plugins."@snapshotter@"]
  type = "snapshot"
  address = "@address@"
@capabilities@  [proxy_plugins."@snapshotter@".exports]
    root = "@export@"
@exports@"""

_CAPABILITIES_3 = '  capabilities = ["only-remap-ids"]\n'
_EXPORT_3 = '    enable_remote_snapshot_annotations = "true"\n'
