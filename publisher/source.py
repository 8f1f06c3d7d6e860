"""Where an image comes from: an OCI layout on disk, or a registry.

A source is opened with its manifest and config read and verified; layers are streamed later, one after another.
"""

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss, InvalidArgument, NotFound, Unavailable
from cvmfsrepo.oci import (
    Descriptor,
    Platform,
    Reference,
    choose_manifest,
    is_index,
    parse_index,
    parse_manifest,
)

if TYPE_CHECKING:  # it knows sources
    from publisher.registry.registries import Registries

DOCUMENT_LIMIT = 64 << 20
"""Bytes of a manifest or config: they are read whole."""

_REF_NAME = "org.opencontainers.image.ref.name"
_FORMS = "give oci:PATH[:REF] or docker://HOST/NAME[:TAG|@sha256:DIGEST]"


class Blobs(Protocol):
    """The content store behind a source."""

    def open(self, descriptor: Descriptor) -> AbstractContextManager[io.RawIOBase]:
        """The blob's bytes as they come, not verified."""


@dataclass(frozen=True, slots=True)
class Source:
    """One image to be published: `reference` is its name where the source gives one, `manifest` and `config` are the
    original bytes, verified, and `indexes` those of the image indexes that led to them."""

    text: str
    reference: Reference | None
    manifest: bytes
    config: bytes
    blobs: Blobs
    indexes: tuple[bytes, ...] = ()

    def open_blob(self, descriptor: Descriptor) -> AbstractContextManager[io.RawIOBase]:
        """A layer's bytes as they come; whoever reads them verifies them."""
        return self.blobs.open(descriptor)


def open_source(text: str, platform: Platform, registries: "Registries | None" = None) -> Source:
    """The image of a source text; without `registries` as if no setting was made. InvalidArgument for a text or
    document that is none, NotFound, DataLoss for bytes that are not what their digest promises, Unavailable or
    PermissionDenied from a registry."""
    kind, _, rest = text.partition(":")
    if kind == "oci" and rest:
        return _open_layout(text, rest, platform)
    if kind == "docker" and rest.startswith("//"):
        return _open_registry(rest.removeprefix("//"), platform, registries)
    raise InvalidArgument("source", text, "is of no known form", _FORMS)


def parse_platform(text: str) -> Platform:
    """`os/architecture` or `os/architecture/variant`."""
    parts = text.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise InvalidArgument("platform", text, "is not os/architecture", "give for example linux/amd64")
    return Platform(*parts)


def read_document(blobs: Blobs, descriptor: Descriptor, thing: str) -> bytes:
    """A manifest or config, whole and verified."""
    if not 0 <= descriptor.size <= DOCUMENT_LIMIT:
        raise InvalidArgument(thing, str(descriptor.digest), f"has {descriptor.size} bytes, too many to be one")
    content = b""
    with blobs.open(descriptor) as stream:
        while len(content) <= descriptor.size and (chunk := stream.read(descriptor.size + 1 - len(content))):
            content += chunk
    if len(content) != descriptor.size or Digest.of(content) != descriptor.digest:
        raise DataLoss(thing, str(descriptor.digest), "is not what its digest promises", "fetch the image again")
    return content


class LayoutBlobs:
    """The blobs of an OCI layout."""

    def __init__(self, layout: Path) -> None:
        self._directory = layout / "blobs" / "sha256"

    def open(self, descriptor: Descriptor) -> AbstractContextManager[io.RawIOBase]:
        path = self._directory / descriptor.digest.hex
        try:
            return path.open("rb", buffering=0)
        except FileNotFoundError:
            remedy = "the layout is incomplete: copy the image again"
            raise NotFound("blob", str(path), "is not in the OCI layout", remedy) from None
        except OSError as error:
            raise Unavailable("blob", str(path), f"cannot be opened: {error.strerror}", "look at the layout") from None


def _open_layout(text: str, rest: str, platform: Platform) -> Source:
    path, name = _layout_and_name(rest)
    try:
        index = parse_index((path / "index.json").read_bytes(), f"index of the OCI layout {path}:")
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound("OCI layout", str(path), "has no index.json", _FORMS) from None
    blobs = LayoutBlobs(path)
    chosen = _choose(index.manifests, name, platform, path)
    manifest, indexes = read_document(blobs, chosen, "manifest"), tuple[bytes, ...]()
    if is_index(manifest):
        indexes = (manifest,)
        manifest = read_document(blobs, choose_manifest(parse_index(manifest), platform), "manifest")
    ref = name or (chosen.annotations or {}).get(_REF_NAME, "")
    config = read_document(blobs, parse_manifest(manifest).config, "image config")
    return Source(text, _reference_of(path, ref), manifest, config, blobs, indexes)


def _layout_and_name(rest: str) -> tuple[Path, str]:
    """The directory and the REF of `PATH[:REF]`; both may hold colons, so the longest directory that exists counts."""
    colons = [len(rest), *(place for place in range(len(rest) - 1, 0, -1) if rest[place] == ":")]
    for place in colons:
        if (path := Path(rest[:place])).is_dir():
            return path, rest[place + 1 :]
    raise NotFound("OCI layout", rest, "is not a directory", _FORMS)


def _choose(manifests: Sequence[Descriptor], name: str, platform: Platform, path: Path) -> Descriptor:
    """The manifest of a REF; without one, the only one, or the only one for the platform."""
    found = [m for m in manifests if not name or (m.annotations or {}).get(_REF_NAME) == name]
    if len(found) > 1:
        wanted = (platform.os, platform.architecture)
        found = [m for m in found if m.platform and (m.platform.os, m.platform.architecture) == wanted]
    if len(found) == 1:
        return found[0]
    offered = ", ".join(sorted({(m.annotations or {}).get(_REF_NAME, "one without a name") for m in manifests}))
    problem = f"has no single image {name!r}" if name else "does not say which image is meant"
    problem += f" for {platform.os}/{platform.architecture}"
    raise NotFound("OCI layout", str(path), problem, f"it has: {offered}")


def _reference_of(path: Path, ref: str) -> Reference | None:
    """The name of a layout's image. A REF that names its registry is one; a tag or NAME:TAG, as most tools write,
    becomes a name of the registry `localhost`, as podman calls what was built here; a bare tag's name is that of the
    layout's directory. None where the directory's name cannot be an image's."""
    host, slash, _ = ref.partition("/")
    if slash and ("." in host or ":" in host or host == "localhost"):
        return Reference.parse(ref)
    tagged = ref if "/" in ref or ":" in ref else f"{path.resolve().name.lower()}:{ref or 'latest'}"
    try:
        return Reference.parse(f"localhost/{tagged}")
    except InvalidArgument:
        return None


def _open_registry(name: str, platform: Platform, registries: "Registries | None") -> Source:
    from publisher.registry.registries import Registries  # only who asks a registry pays for the client's import

    reference = Reference.parse(name)
    if reference.registry == "docker.io" and "/" not in reference.repository:  # Docker Hub's own, as everywhere
        reference = replace(reference, repository=f"library/{reference.repository}")
    return (registries or Registries()).open(reference, platform)
