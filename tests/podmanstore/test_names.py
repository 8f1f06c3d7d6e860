"""Names that podman finds what a person types by."""

import pytest

from cvmfsrepo.oci import Reference
from podmanstore.names import podman_name

DIGEST = "sha256:" + 64 * "a"


@pytest.mark.parametrize(
    ("published", "name"),
    [
        ("registry.hub.docker.com/library/ubuntu:22.04", "docker.io/library/ubuntu:22.04"),
        ("registry.hub.docker.com/ubuntu:22.04", "docker.io/library/ubuntu:22.04"),
        ("index.docker.io/atlas/base:1", "docker.io/atlas/base:1"),
        ("registry-1.docker.io/a/b/c:1", "docker.io/a/b/c:1"),
        ("hub.docker.com/x:y", "docker.io/library/x:y"),
        ("docker.io/busybox:latest", "docker.io/library/busybox:latest"),
        ("busybox", "docker.io/library/busybox:latest"),
        ("registry.example/ubuntu:1", "registry.example/ubuntu:1"),
        ("localhost:5000/a/b:1", "localhost:5000/a/b:1"),
        (f"registry.example/a@{DIGEST}", f"registry.example/a@{DIGEST}"),
        (f"registry.hub.docker.com/ubuntu@{DIGEST}", f"docker.io/library/ubuntu@{DIGEST}"),
        (f"registry.example/a:1@{DIGEST}", "registry.example/a:1"),
    ],
)
def test_podman_name(published: str, name: str) -> None:
    """Docker Hub has one name, `library/` included; others stay; there is a tag or a digest, never both."""
    assert podman_name(Reference.parse(published)) == name
