"""An image that is to be published, wherever it comes from: its manifest and config are read and verified when it is
opened (`opening.py`); layers are streamed later, one after another."""

import io
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss, InvalidArgument
from cvmfsrepo.oci import Descriptor, Platform, Reference

DOCUMENT_LIMIT = 64 << 20
"""Bytes of a manifest or config: they are read whole."""


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
