"""How podman calls an image that a repository has under the name of its registry.

podman looks up what a person types after making it whole: `ubuntu` is `docker.io/library/ubuntu:latest`. A store that
lists Docker Hub's images under one of its hosts' names is never found so.
"""

from cvmfsrepo.oci import Reference

DOCKER_HUB = "docker.io"

_HUB_HOSTS = frozenset(
    {DOCKER_HUB, "registry.hub.docker.com", "index.docker.io", "registry-1.docker.io", "hub.docker.com"}
)


def podman_reference(reference: Reference) -> Reference:
    """The same image by the name that podman looks for. Its tag wins over its digest, for podman takes no name with
    both, and the tag is what the image's directory is named by."""
    registry, repository = reference.registry, reference.repository
    if registry in _HUB_HOSTS:
        registry = DOCKER_HUB
        repository = repository if "/" in repository else f"library/{repository}"
    return Reference(registry, repository, reference.tag, None if reference.tag else reference.digest)


def podman_name(reference: Reference) -> str:
    """As `podman_reference`, as text: always with a tag or a digest."""
    return str(podman_reference(reference))
