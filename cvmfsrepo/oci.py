"""Image references, descriptors, manifests, indices and configs: parsed and checked at the border.

Keys are read without regard to case, for DUCC writes the Go structure's names (`SchemaVersion`, `Digest`).
Source: OCI image specification 1.0; Docker image manifest version 2, schema 2; the distribution reference grammar.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Self, TypeVar

import msgspec

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import InvalidArgument

_T = TypeVar("_T")

INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)

DOCKER_HUB = "docker.io"
_HUB_HOSTS = frozenset(
    {DOCKER_HUB, "registry.hub.docker.com", "index.docker.io", "registry-1.docker.io", "hub.docker.com"}
)

_REGISTRY = re.compile(r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?", re.ASCII)
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reference:
    """`registry/repository:tag` or `registry/repository@digest`: where an image is, as its directory is named."""

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """A full reference. Without a tag or digest it is `:latest`; a first part without dot, colon or
        `localhost` is a Docker Hub name, as everywhere."""
        rest, at, digits = text.partition("@")
        digest = Digest.parse(digits, "digest of the image reference") if at else None
        head, slash, tail = rest.partition("/")
        if not slash or not ("." in head or ":" in head or head == "localhost"):
            head, tail = DOCKER_HUB, in_library(rest)
        repository, colon, tag = tail.partition(":")
        if colon and not _TAG.fullmatch(tag):
            raise InvalidArgument("image reference", text, "has a malformed tag")
        if not _REGISTRY.fullmatch(head) or not _REPOSITORY.fullmatch(repository) or len(repository) > 255:
            raise InvalidArgument("image reference", text, "is not HOST[:PORT]/NAME[:TAG][@sha256:DIGEST]")
        return cls(head, repository, tag if colon else (None if digest else "latest"), digest)

    @property
    def suffix(self) -> str:
        """What DUCC puts behind the repository's name: the tag wins over the digest."""
        return f":{self.tag}" if self.tag else f"@{self.digest}"

    def at_docker_hub(self) -> Self:
        """The same image by the name that people call it: Docker Hub has one, whichever of its hosts was asked."""
        if self.registry not in _HUB_HOSTS:
            return self
        return replace(self, registry=DOCKER_HUB, repository=in_library(self.repository))

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.registry}/{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")


def in_library(name: str) -> str:
    """A name at Docker Hub, whole: its own images are in `library`, which a short name leaves out."""
    return name if "/" in name else f"library/{name}"


_DigestText = Annotated[str, msgspec.Meta(pattern=r"\Asha256:[0-9a-f]{64}\Z")]
"""A digest as it stands in JSON; msgspec would read a `Digest`, being a dataclass, from an object."""


class Platform(msgspec.Struct, frozen=True):
    """The machine an image is for."""

    os: str = ""
    architecture: str = ""
    variant: str = ""


class Descriptor(msgspec.Struct, frozen=True):
    """A blob: its digest, its size in bytes and what it is."""

    digest_text: _DigestText = msgspec.field(name="digest")
    size: Annotated[int, msgspec.Meta(ge=0)]
    mediatype: str = ""
    platform: Platform | None = None
    annotations: dict[str, str] | None = None

    @property
    def digest(self) -> Digest:
        return Digest.parse(self.digest_text)


class Manifest(msgspec.Struct, frozen=True):
    """One image: its config and its layers, base first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    mediatype: str = ""


class Index(msgspec.Struct, frozen=True):
    """Several manifests under one name, one for each platform."""

    manifests: tuple[Descriptor, ...]


class RootFs(msgspec.Struct, frozen=True):
    """The diff ids of the layers, base first."""

    diff_id_texts: tuple[_DigestText, ...] = msgspec.field(name="diff_ids")

    @property
    def diff_ids(self) -> tuple[Digest, ...]:
        return tuple(Digest.parse(text) for text in self.diff_id_texts)


class ImageConfig(msgspec.Struct, frozen=True):
    """What of an image's config this project uses."""

    rootfs: RootFs
    os: str = ""
    architecture: str = ""
    created: str | None = None


def parse_manifest(content: bytes, thing: str = "manifest") -> Manifest:
    """A manifest; `thing` names the input in the error. Refuses what is not a schema 2 image manifest."""
    manifest = _typed(content, Manifest, thing)
    if not manifest.layers:
        raise InvalidArgument(thing, content[:80], "names no layers")
    return manifest


def parse_index(content: bytes, thing: str = "index") -> Index:
    return _typed(content, Index, thing)


def parse_config(content: bytes, thing: str = "image config") -> ImageConfig:
    return _typed(content, ImageConfig, thing)


def is_index(content: bytes) -> bool:
    """Whether a document is an index of manifests rather than a manifest: by what it holds, not by its type."""
    try:
        document = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return isinstance(document, dict) and "manifests" in {key.lower() for key in document}


def choose_manifest(index: Index, platform: Platform) -> Descriptor:
    """The manifest of an index for a platform; an empty variant accepts any."""
    for entry in index.manifests:
        found = entry.platform or Platform()
        same = (found.os, found.architecture) == (platform.os, platform.architecture)
        if same and platform.variant in ("", found.variant):
            return entry
    offered = ", ".join(f"{e.platform.os}/{e.platform.architecture}" for e in index.manifests if e.platform)
    raise InvalidArgument(
        "index", f"{platform.os}/{platform.architecture}", "offers no image for this platform", f"it offers: {offered}"
    )


# `convert` is safe in several threads only for types that were looked at before: see tests/architecture.py.
_LOOKED_AT = tuple(msgspec.json.Decoder(kind) for kind in (Manifest, Index, ImageConfig))


def _typed(content: bytes, kind: type[_T], thing: str) -> _T:
    try:
        return msgspec.convert(_lowered(msgspec.json.decode(content)), kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(thing, content[:80], f"does not parse: {error}") from None


def _lowered(value: object) -> object:
    """The same document with the keys of objects in lower case, but for free-form maps."""
    if isinstance(value, dict):
        return {k.lower(): v if k.lower() == "annotations" else _lowered(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_lowered(item) for item in value]
    return value
