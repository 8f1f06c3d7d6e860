"""The few commands of `crictl` that docs/operations.md types, for Debian has no package of it: its words, over CRI."""

import os
import subprocess
import sys

import grpc

from protos.cri.runtime.v1 import api_pb2 as api
from protos.cri.runtime.v1 import api_pb2_grpc

TIMEOUT = 60


def main(words: list[str]) -> None:
    """`pull IMAGE`, `ps -q`, `rmp --force --all`."""
    with grpc.insecure_channel(f"unix:{os.environ['CONTAINER_RUNTIME_ENDPOINT']}") as channel:
        runtime = api_pb2_grpc.RuntimeServiceStub(channel)
        images = api_pb2_grpc.ImageServiceStub(channel)
        match words:
            case ["pull", name]:
                request = api.PullImageRequest(image=api.ImageSpec(image=name))
                print(f"Image is up to date for {images.PullImage(request, timeout=TIMEOUT).image_ref}")
            case ["ps", "-q"]:
                print("\n".join(_ids("container")))
            case ["rmp", "--force", "--all"]:
                for pod in _ids("sandbox"):
                    runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=pod), timeout=TIMEOUT)
                    print(f"Stopped sandbox {pod}")
                    runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=pod), timeout=TIMEOUT)
                    print(f"Removed sandbox {pod}")
            case _:
                sys.exit(f"crictl: {' '.join(words)!r} is not among the commands of this stand-in")


def _ids(kind: str) -> list[str]:
    """Pods or containers, by the label that CRI gives them."""
    command = ["ctr", "-n", "k8s.io", "containers", "list", "-q", f'labels."io.cri-containerd.kind"=={kind}']
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except grpc.RpcError as error:
        sys.exit(f"E{error.code().name}: {error.details()}")
