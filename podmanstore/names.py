"""How podman calls an image that a repository has under the name of its registry.

podman looks up what a person types after making it whole: `ubuntu` is `docker.io/library/ubuntu:latest`. A store that
lists Docker Hub's images under one of its hosts' names is never found so.
"""

from dataclasses import replace

from cvmfsrepo.oci import Reference


def podman_reference(reference: Reference) -> Reference:
    """The same image by the name that podman looks for. Its tag wins over its digest, for podman takes no name with
    both, and the tag is what the image's directory is named by."""
    return replace(reference.at_docker_hub(), digest=None if reference.tag else reference.digest)


def podman_name(reference: Reference) -> str:
    """As `podman_reference`, as text: always with a tag or a digest."""
    return str(podman_reference(reference))
