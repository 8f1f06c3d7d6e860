"""What kubelet does, in small: pull an image, run a container of it in a host-network pod, read its log, remove it."""

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from protos.cri.runtime.v1 import api_pb2 as api
from protos.cri.runtime.v1 import api_pb2_grpc
from tests.engines.containerd import CGROUPS
from tests.engines.process import EngineError

RUNTIME_HANDLER = "io.containerd.cri.runtime-handler"
"""The annotation by which containerd knows, at a pull, for which runtime the image is."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A directory or file of the host, at the same place in a container. With ``follows``, what the host mounts below
    it later is seen too (``HostToContainer``)."""

    path: Path
    read_only: bool = True
    follows: bool = False


@dataclass(frozen=True, slots=True)
class SecurityContext:
    """A container's, in the words of its manifest; handed to the engine as kubelet does."""

    add: Sequence[str] = ()
    drop: Sequence[str] = ()
    allow_privilege_escalation: bool = True
    read_only_root_filesystem: bool = False
    seccomp_runtime_default: bool = False
    run_as_user: int | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a pod of one container may ask for besides its image and command; ``handler`` is its runtime class's. With
    ``host_users = False`` it runs in a user namespace. ``arguments`` are for the image's own entry point, where no
    command is given."""

    volumes: Sequence[Volume] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    security: SecurityContext = SecurityContext()
    handler: str = ""
    host_users: bool = True
    arguments: Sequence[str] = ()

    @property
    def annotations(self) -> dict[str, str]:
        return {RUNTIME_HANDLER: self.handler} if self.handler else {}


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended, and all that it wrote to either stream."""

    exit_code: int
    output: str


@dataclass(frozen=True, slots=True)
class Container:
    """A started container in a pod of its own."""

    pod: str
    id: str
    log: Path


class Cri:
    """A client of the CRI services behind ``socket``; refusals are ``grpc.RpcError`` with the server's code."""

    def __init__(self, socket: Path, timeout: float = 300) -> None:
        self._logs = socket.parent / "pods"
        self._timeout = timeout
        self._channel = grpc.insecure_channel(f"unix:{socket}")
        self._runtime = api_pb2_grpc.RuntimeServiceStub(self._channel)
        self._images = api_pb2_grpc.ImageServiceStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def version(self) -> str:
        return str(self._runtime.Version(api.VersionRequest(), timeout=self._timeout).runtime_version)

    def pull(self, ref: str, manifest: Manifest | None = None) -> str:
        """Its id: the digest of the image's config. With the manifest of the pod that it is for."""
        config = api.PodSandboxConfig(annotations=manifest.annotations) if manifest else None
        request = api.PullImageRequest(image=api.ImageSpec(image=ref), sandbox_config=config)
        return str(self._images.PullImage(request, timeout=self._timeout).image_ref)

    def find_image(self, ref: str) -> str | None:
        """The id of an image that the engine has."""
        request = api.ImageStatusRequest(image=api.ImageSpec(image=ref))
        found = self._images.ImageStatus(request, timeout=self._timeout)
        return str(found.image.id) if found.HasField("image") else None

    def remove_image(self, ref: str) -> None:
        """The image and its names, whether or not it is there; the engine collects the layers afterwards."""
        self._images.RemoveImage(api.RemoveImageRequest(image=api.ImageSpec(image=ref)), timeout=self._timeout)

    def image_filesystems(self) -> list[str]:
        """Mount points that the engine gives for disk accounting."""
        found = self._images.ImageFsInfo(api.ImageFsInfoRequest(), timeout=self._timeout)
        return [str(entry.fs_id.mountpoint) for entry in found.image_filesystems]

    def run(self, ref: str, command: Sequence[str]) -> Result:
        """Run to the end, and leave nothing behind."""
        with self.running(ref, command) as container:
            exit_code = self.wait(container)
            return Result(exit_code, self.output(container))

    @contextmanager
    def running(
        self,
        ref: str,
        command: Sequence[str],
        mounts: Mapping[Path, str] | None = None,
        manifest: Manifest | None = None,
    ) -> Iterator[Container]:
        container = self.start(ref, command, mounts, manifest)
        try:
            yield container
        finally:
            self.stop(container)

    def start(
        self,
        ref: str,
        command: Sequence[str],
        mounts: Mapping[Path, str] | None = None,
        manifest: Manifest | None = None,
    ) -> Container:
        """Of an image that was pulled; ``mounts`` are directories of the host by their place, read-only."""
        manifest = manifest or Manifest()
        config = self._pod_config(manifest)
        request = api.RunPodSandboxRequest(config=config, runtime_handler=manifest.handler)
        pod = str(self._runtime.RunPodSandbox(request, timeout=self._timeout).pod_sandbox_id)
        try:
            wanted = _container_config(ref, command, mounts or {}, manifest)
            container = self._start_in(pod, config, wanted)
        except BaseException:
            self._remove_pod(pod)
            raise
        return container

    def stop(self, container: Container) -> None:
        """Kill it, if it still runs, and remove it with its pod."""
        self._runtime.StopContainer(api.StopContainerRequest(container_id=container.id), timeout=self._timeout)
        self._runtime.RemoveContainer(api.RemoveContainerRequest(container_id=container.id), timeout=self._timeout)
        self._remove_pod(container.pod)

    def end(self, container: Container, grace: int) -> int:
        """Ask it to end, kill it after ``grace`` seconds; its exit code. It stays, for ``stop`` to remove."""
        request = api.StopContainerRequest(container_id=container.id, timeout=grace)
        self._runtime.StopContainer(request, timeout=self._timeout)
        return self.wait(container)

    def pid(self, container: Container) -> int:
        """Of its first process, as the host counts."""
        request = api.ContainerStatusRequest(container_id=container.id, verbose=True)
        return int(json.loads(self._runtime.ContainerStatus(request, timeout=self._timeout).info["info"])["pid"])

    def exit_code(self, container: Container) -> int | None:
        """None while it runs."""
        request = api.ContainerStatusRequest(container_id=container.id)
        status = self._runtime.ContainerStatus(request, timeout=self._timeout).status
        return int(status.exit_code) if status.state == api.CONTAINER_EXITED else None

    def wait(self, container: Container, timeout: float = 120) -> int:
        deadline = time.monotonic() + timeout
        while (code := self.exit_code(container)) is None:
            if time.monotonic() > deadline:
                raise EngineError(f"container {container.id!r}: runs on after {timeout} s: {self.output(container)}")
            time.sleep(0.02)
        return code

    def exec(self, container: Container, command: Sequence[str], timeout: int = 60) -> Result:
        """Run one more command in a running container."""
        request = api.ExecSyncRequest(container_id=container.id, cmd=command, timeout=timeout)
        done = self._runtime.ExecSync(request, timeout=self._timeout)
        return Result(int(done.exit_code), (done.stdout + done.stderr).decode(errors="surrogateescape"))

    def output(self, container: Container) -> str:
        """All that it has written so far."""
        return parse_log(container.log.read_text(errors="surrogateescape")) if container.log.exists() else ""

    def _start_in(self, pod: str, config: api.PodSandboxConfig, wanted: api.ContainerConfig) -> Container:
        request = api.CreateContainerRequest(pod_sandbox_id=pod, config=wanted, sandbox_config=config)
        made = str(self._runtime.CreateContainer(request, timeout=self._timeout).container_id)
        self._runtime.StartContainer(api.StartContainerRequest(container_id=made), timeout=self._timeout)
        return Container(pod, made, Path(config.log_directory, wanted.log_path))

    def _pod_config(self, manifest: Manifest) -> api.PodSandboxConfig:
        uid = uuid.uuid4().hex
        logs = self._logs / uid
        logs.mkdir(parents=True)
        return api.PodSandboxConfig(
            metadata=api.PodSandboxMetadata(name=uid, uid=uid, namespace="default"),
            log_directory=str(logs),
            annotations=manifest.annotations,
            linux=api.LinuxPodSandboxConfig(
                cgroup_parent=f"/{CGROUPS}/{uid}",
                security_context=api.LinuxSandboxSecurityContext(namespace_options=_namespaces(manifest)),
            ),
        )

    def _remove_pod(self, pod: str) -> None:
        self._runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=pod), timeout=self._timeout)
        self._runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=pod), timeout=self._timeout)


def _namespaces(manifest: Manifest) -> api.NamespaceOption:
    """As kubelet's defaults, but for the network: there is no CNI here. A user namespace needs a network of its own,
    and so a CNI that the test brings."""
    options = api.NamespaceOption(network=api.NODE if manifest.host_users else api.POD, pid=api.CONTAINER)
    if not manifest.host_users:
        mapping = [api.IDMapping(container_id=0, host_id=1 << 20, length=1 << 16)]
        options.userns_options.CopyFrom(api.UserNamespace(mode=api.POD, uids=mapping, gids=mapping))
    return options


def _container_config(
    ref: str, command: Sequence[str], mounts: Mapping[Path, str], manifest: Manifest
) -> api.ContainerConfig:
    return api.ContainerConfig(
        metadata=api.ContainerMetadata(name="main"),
        image=api.ImageSpec(image=ref),
        command=command,
        args=manifest.arguments,
        envs=[api.KeyValue(key=key, value=value) for key, value in manifest.environment.items()],
        mounts=[
            *(api.Mount(container_path=to, host_path=str(path), readonly=True) for path, to in mounts.items()),
            *map(_mount, manifest.volumes),
        ],
        log_path="main.log",
        linux=api.LinuxContainerConfig(security_context=_security_context(manifest)),
    )


def _mount(volume: Volume) -> api.Mount:
    return api.Mount(
        container_path=str(volume.path),
        host_path=str(volume.path),
        readonly=volume.read_only,
        propagation=api.PROPAGATION_HOST_TO_CONTAINER if volume.follows else api.PROPAGATION_PRIVATE,
    )


def _security_context(manifest: Manifest) -> api.LinuxContainerSecurityContext:
    wanted = manifest.security
    profile = api.SecurityProfile.RuntimeDefault if wanted.seccomp_runtime_default else api.SecurityProfile.Unconfined
    return api.LinuxContainerSecurityContext(
        capabilities=api.Capability(add_capabilities=wanted.add, drop_capabilities=wanted.drop),
        namespace_options=_namespaces(manifest),
        run_as_user=None if wanted.run_as_user is None else api.Int64Value(value=wanted.run_as_user),
        readonly_rootfs=wanted.read_only_root_filesystem,
        no_new_privs=not wanted.allow_privilege_escalation,
        seccomp=api.SecurityProfile(profile_type=profile),
    )


def parse_log(text: str) -> str:
    """The text in a CRI log, whose lines are ``<time> <stream> <F or P> <text>``; P is not yet a whole line."""
    parts = []
    for line in text.splitlines():
        _, _, tag, content = line.split(" ", 3)
        parts.append(content if tag.startswith("P") else content + "\n")
    return "".join(parts)
