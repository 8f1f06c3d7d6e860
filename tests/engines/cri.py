"""What kubelet does, in small: pull an image, run a container of it in a host-network pod, read its log, remove it."""

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from protos.cri.runtime.v1 import api_pb2 as api
from protos.cri.runtime.v1 import api_pb2_grpc
from tests.engines.containerd import CGROUPS
from tests.engines.process import EngineError


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

    def pull(self, ref: str) -> str:
        """Its id: the digest of the image's config."""
        request = api.PullImageRequest(image=api.ImageSpec(image=ref))
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
        self, ref: str, command: Sequence[str], mounts: Mapping[Path, str] | None = None
    ) -> Iterator[Container]:
        container = self.start(ref, command, mounts)
        try:
            yield container
        finally:
            self.stop(container)

    def start(self, ref: str, command: Sequence[str], mounts: Mapping[Path, str] | None = None) -> Container:
        """Of an image that was pulled; ``mounts`` are directories of the host by their place, read-only."""
        config = self._pod_config()
        request = api.RunPodSandboxRequest(config=config)
        pod = str(self._runtime.RunPodSandbox(request, timeout=self._timeout).pod_sandbox_id)
        try:
            container = self._start_in(pod, config, ref, command, mounts or {})
        except BaseException:
            self._remove_pod(pod)
            raise
        return container

    def stop(self, container: Container) -> None:
        """Kill it, if it still runs, and remove it with its pod."""
        self._runtime.StopContainer(api.StopContainerRequest(container_id=container.id), timeout=self._timeout)
        self._runtime.RemoveContainer(api.RemoveContainerRequest(container_id=container.id), timeout=self._timeout)
        self._remove_pod(container.pod)

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

    def _start_in(
        self,
        pod: str,
        config: api.PodSandboxConfig,
        ref: str,
        command: Sequence[str],
        mounts: Mapping[Path, str],
    ) -> Container:
        name = "main.log"
        host = api.NamespaceOption(network=api.NODE)
        wanted = api.ContainerConfig(
            metadata=api.ContainerMetadata(name="main"),
            image=api.ImageSpec(image=ref),
            command=command,
            mounts=[api.Mount(container_path=to, host_path=str(path), readonly=True) for path, to in mounts.items()],
            log_path=name,
            linux=api.LinuxContainerConfig(security_context=api.LinuxContainerSecurityContext(namespace_options=host)),
        )
        request = api.CreateContainerRequest(pod_sandbox_id=pod, config=wanted, sandbox_config=config)
        made = str(self._runtime.CreateContainer(request, timeout=self._timeout).container_id)
        self._runtime.StartContainer(api.StartContainerRequest(container_id=made), timeout=self._timeout)
        return Container(pod, made, Path(config.log_directory, name))

    def _pod_config(self) -> api.PodSandboxConfig:
        uid = uuid.uuid4().hex
        logs = self._logs / uid
        logs.mkdir(parents=True)
        host = api.NamespaceOption(network=api.NODE)
        return api.PodSandboxConfig(
            metadata=api.PodSandboxMetadata(name=uid, uid=uid, namespace="default"),
            log_directory=str(logs),
            linux=api.LinuxPodSandboxConfig(
                cgroup_parent=f"/{CGROUPS}/{uid}",
                security_context=api.LinuxSandboxSecurityContext(namespace_options=host),
            ),
        )

    def _remove_pod(self, pod: str) -> None:
        self._runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=pod), timeout=self._timeout)
        self._runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=pod), timeout=self._timeout)


def parse_log(text: str) -> str:
    """The text in a CRI log, whose lines are ``<time> <stream> <F or P> <text>``; P is not yet a whole line."""
    parts = []
    for line in text.splitlines():
        _, _, tag, content = line.split(" ", 3)
        parts.append(content if tag.startswith("P") else content + "\n")
    return "".join(parts)
