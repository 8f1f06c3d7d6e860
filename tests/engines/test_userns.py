"""Pods in user namespaces: refused at once and in words, not after a copy of the whole image."""

from pathlib import Path

import grpc
import pytest

from tests.engines.busybox import push_pause, write_busybox
from tests.engines.containerd import Containerd
from tests.engines.cri import Cri, Manifest
from tests.engines.node import Snapshotter
from tests.engines.registry import Registry
from tests.fidelity.publishing import publish
from tests.images.tarlayer import File
from tests.mounting import standin

pytestmark = [pytest.mark.engine, pytest.mark.fuse, pytest.mark.root, pytest.mark.xdist_group("serving")]

MAPPED = Manifest(host_users=False)

_PLUGIN = """\
#!/bin/sh
cat > /dev/null
[ "$CNI_COMMAND" = ADD ] && printf '%s' '{"cniVersion": "0.4.0", "interfaces": [{"name": "eth0", "sandbox": "/x"}],
  "ips": [{"version": "4", "address": "192.0.2.2/24", "interface": 0}]}'
exit 0
"""
_NETWORK = '{"cniVersion": "0.4.0", "name": "nothing", "plugins": [{"type": "none"}]}'


def networked(containerd: Containerd) -> Containerd:
    """With a CNI that makes nothing and says that it did: a pod in a user namespace must have a network of its own."""
    directory = containerd.directory / "cni"
    directory.mkdir()
    for name in ("none", "loopback"):
        (directory / name).write_text(_PLUGIN)
        (directory / name).chmod(0o755)
    (directory / "none.conflist").write_text(_NETWORK)
    return containerd


@pytest.mark.parametrize(
    ("version", "refusal"),
    [
        ("1.7", "is for a user namespace, and its image stands on layers of repository"),
        ("2.1", "doesn't support idmap mounts on this host"),
    ],
)
def test_a_pod_in_a_user_namespace_is_refused(tmp_path: Path, version: str, refusal: str) -> None:
    """By the daemon where containerd would copy every file to give it another owner; by containerd where it knows
    what the snapshotter can. Nothing of it is left, nothing was copied, and other pods run."""
    image = write_busybox(tmp_path / "layout", "base", [[File("data", b"data\n")]])
    with Registry(tmp_path / "registry") as registry:
        reference = registry.push(image.path, image.ref, "test/base:1")
        publish(image, tmp_path / "repository", reference)
        with (
            standin(tmp_path / "repository", tmp_path / "cvmfs"),
            Snapshotter(tmp_path / "state", tmp_path / "cvmfs") as snapshotter,
            networked(Containerd(version, push_pause(registry), snapshotter.proxy)) as containerd,
            Cri(containerd.socket) as cri,
        ):
            cri.pull(reference)
            with pytest.raises(grpc.RpcError, match=refusal):
                cri.start(reference, ["/bin/true"], manifest=MAPPED)
            with snapshotter.client() as client:
                assert [info.name for info in client.walk(["kind==active"])] == []
                assert [info.name for info in client.walk() if "remap" in info.name] == []
            assert cri.run(reference, ["/bin/cat", "/data"]).output == "data\n"
