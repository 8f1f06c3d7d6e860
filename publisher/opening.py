"""A source text -> the image that it names: of an OCI layout on disk, or of a registry."""

from dataclasses import replace
from typing import TYPE_CHECKING

from cvmfsrepo.errors import InvalidArgument
from cvmfsrepo.oci import DOCKER_HUB, Platform, Reference, in_library
from publisher.ocilayout import FORMS, open_layout
from publisher.source import Source

if TYPE_CHECKING:
    from publisher.registry.registries import Registries


def open_source(text: str, platform: Platform, registries: "Registries | None" = None) -> Source:
    """The image of a source text; without `registries` as if no setting was made. InvalidArgument for a text or
    document that is none, NotFound, DataLoss for bytes that are not what their digest promises, Unavailable or
    PermissionDenied from a registry."""
    kind, _, rest = text.partition(":")
    if kind == "oci" and rest:
        return open_layout(text, rest, platform)
    if kind == "docker" and rest.startswith("//"):
        return _open_registry(rest.removeprefix("//"), platform, registries)
    raise InvalidArgument("source", text, "is of no known form", FORMS)


def _open_registry(name: str, platform: Platform, registries: "Registries | None") -> Source:
    from publisher.registry.registries import Registries  # only who asks a registry pays for the client's import

    reference = Reference.parse(name)
    if reference.registry == DOCKER_HUB:
        reference = replace(reference, repository=in_library(reference.repository))
    return (registries or Registries()).open(reference, platform)
