"""What is in an unpacked repository, and how to read it.

Everything here touches the repository and may wait for a network: on a node it is called through `access.Access`,
which gives it a deadline. A plain directory or an NFS path is as good as a CVMFS mount.
"""

import errno
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

from cvmfsrepo import xattrs
from cvmfsrepo.contained import holder_of, listed_directory, opened_file
from cvmfsrepo.contents import FILE_LIMIT, Contents, decode_contents
from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss, InvalidArgument, NotFound
from cvmfsrepo.layout import OWN_METADATA, Layout, layer_of_target
from cvmfsrepo.oci import Manifest, Reference, parse_manifest
from cvmfsrepo.outline import Outline, outline_of
from cvmfsrepo.reasons import Reason, reason_of
from cvmfsrepo.tree import NAMES_LIMIT, Head, Record, decode, decode_head
from cvmfsrepo.walk import outline_by_walk

_HEAD_CHUNK = 128 << 10
_RECORD_LIMIT = 256 << 20
_METADATA_LIMIT = 64 << 20
_POINTER_LIMIT = 64 << 10
_PATHS_LIMIT = 256 << 20
"""Bytes of the paths of a layer's markers together with those of the directories above them."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that is there: its directory was opened and read."""

    digest: Digest
    path: Path


@dataclass(frozen=True, slots=True)
class Missing:
    """A layer that cannot be had: `reason` for machines, `detail` for people; `repository` is the one that counts most
    where several were asked, "" where none was."""

    reason: Reason
    detail: str
    repository: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """An image by the name it is published under, and its manifest as DUCC keeps it."""

    reference: Reference
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Pointer:
    """The original documents of an image: its manifest, and the image indexes that led there, topmost first. Each is
    kept as a blob."""

    manifest: Digest
    indexes: tuple[Digest, ...] = ()

    @classmethod
    def parse(cls, content: bytes, thing: str) -> Self:
        """Keys that are not known are passed over; InvalidArgument where a digest is missing or is none."""
        try:
            document = _decode_pointer(content)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidArgument(thing, content[:80], f"does not parse: {error}") from None
        return cls(Digest.parse(document.manifest), tuple(map(Digest.parse, document.indexes)))

    def encode(self) -> bytes:
        """The same pointer always gives the same bytes."""
        return msgspec.json.encode(_PointerDocument(str(self.manifest), tuple(map(str, self.indexes))))


class _PointerDocument(msgspec.Struct):
    manifest: str
    indexes: tuple[str, ...]


_decode_pointer = msgspec.json.Decoder(_PointerDocument).decode


@dataclass(frozen=True, slots=True)
class Repository:
    """One repository: its name, and its root directory."""

    name: str
    layout: Layout

    def find_layer(self, digest: Digest) -> Layer | Missing:
        """The layer, opened and an entry read: CVMFS loads a layer's catalog at its first listing, so a good stat
        proves nothing."""
        path = self.layout.layerfs(digest)
        try:
            with listed_directory(self.layout.root, path) as directory, os.scandir(directory) as names:
                next(names, None)
        except FileNotFoundError:
            return self.why_missing(f"layer {digest}")
        except OSError as error:
            return Missing(reason_of(error), f"layer {digest} in {self.name}: {path}: {error.strerror}")
        return Layer(digest, path)

    def find_by_diff_id(self, diff_id: Digest) -> Digest | None:
        """The layer of a diff id, where the publisher left a link; None where it did not or the link is not one of
        its making. Raises OSError where the repository does not answer."""
        try:
            with holder_of(self.layout.root, self.layout.diff_id_link(diff_id)) as (directory, name):
                return layer_of_target(os.readlink(name, dir_fd=directory))
        except (FileNotFoundError, NotADirectoryError, InvalidArgument):
            return None
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ELOOP):  # something that is not a link; a link on the way
                return None
            raise

    def find_head(self, digest: Digest) -> Head | None:
        """The head of the layer's tree record, or None where it has none. DataLoss where it is damaged or is not
        this layer's; OSError where the repository does not answer."""
        path = self.layout.tree_record(digest)
        try:
            with opened_file(self.layout.root, path, _HEAD_CHUNK) as record:
                head = decode_head(record, f"tree record {path}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _of_layer(head, digest, path)

    def find_record(self, digest: Digest) -> Record | None:
        """The layer's whole tree record, or None where it has none. Raises as `find_head`."""
        path = self.layout.tree_record(digest)
        content = self._read_limited(path, _RECORD_LIMIT)
        if content is None:
            return None
        record = decode(content, f"tree record {path}")
        _of_layer(record.head, digest, path)
        return record

    def get_outline(self, digest: Digest, until: float) -> Outline:
        """The layer's outline, from its record or else by a walk. Raises as the two below."""
        return self.find_outline(digest) or self.walk_outline(digest, until)

    def find_outline(self, digest: Digest) -> Outline | None:
        """The layer's outline from its record; None where it has none. Raises as `find_head`, and DataLoss where it is
        more than a node should have to build."""
        head = self.find_head(digest)
        return checked_outline(head, digest) if head else None

    def walk_outline(self, digest: Digest, until: float) -> Outline:
        """The layer's outline by a walk that gives up at `until` (of time.monotonic) with WalkExpired; OSError where
        the repository does not answer, DataLoss as above."""
        return _checked(outline_by_walk(self.layout.layerfs(digest), until), digest)

    def get_image(self, reference: Reference) -> Image:
        path = self.layout.manifest_json(reference)
        content = self._read_limited(path, _METADATA_LIMIT)
        if content is None:
            raise NotFound("image", str(reference), f"is not published in {self.name}")
        return Image(reference, parse_manifest(content, f"manifest {path} of image"))

    def find_pointer(self, reference: Reference) -> Pointer | None:
        """The original documents of a published image, or None where its publisher kept none. DUCC does not know of
        them: where it has published another image under the name since, `get_image` gives that one, and whoever wants
        the original has to compare the two. DataLoss where the pointer is damaged; OSError where the repository does
        not answer."""
        path = self.layout.image_pointer(reference)
        content = self._read_limited(path, _POINTER_LIMIT)
        if content is None:
            return None
        try:
            return Pointer.parse(content, f"image pointer {path}:")
        except InvalidArgument as error:
            raise DataLoss("image pointer", str(path), f"is damaged: {error}", "publish the image again") from None

    def get_blob(self, digest: Digest) -> bytes:
        """A manifest, config or image index, byte for byte, verified."""
        path = self.layout.blob(digest)
        content = self._read_limited(path, _METADATA_LIMIT)
        if content is None:
            raise NotFound("blob", str(digest), f"is not kept in {self.name}")
        if Digest.of(content) != digest:
            raise DataLoss("blob", str(path), "is not what its digest promises")
        return content

    def walk_images(self) -> Iterator[Reference]:
        """The references of all published images, sorted by directory. Directories that are not named like an
        image are passed over."""
        for registry in _names(self.layout.metadata):
            if registry not in OWN_METADATA:
                yield from self._walk_registry(registry, self.layout.metadata / registry, "")

    def find_contents(self) -> Contents | None:
        """What the publisher's index lists, or None where there is none. It may be older than the repository is, see
        there. DataLoss where it is damaged; OSError where the repository does not answer."""
        content = self._read_limited(self.layout.index, FILE_LIMIT)
        return None if content is None else decode_contents(content, str(self.layout.index))

    def find_revision(self) -> int | None:
        """The CVMFS revision that is mounted, or None where this is not a CVMFS mount."""
        value = xattrs.read(self.layout.root, "user.revision")
        return int(value) if value is not None and value.isdigit() and len(value) <= 18 else None

    def find_identity(self) -> tuple[str, str]:
        """The name by which the mounted repository is known, and the hash of all that its revision holds; empty texts
        where this is not a CVMFS mount, or where its client tells them to some users only."""
        return self._said("user.fqrn"), self._said("user.root_hash")

    def _said(self, name: str) -> str:
        try:
            value = xattrs.read(self.layout.root, name) or b""
        except PermissionError:
            return ""
        return value.decode(errors="replace")

    def _walk_registry(self, registry: str, directory: Path, prefix: str) -> Iterator[Reference]:
        for name in _names(directory):
            if (directory / name / "manifest.json").is_file():
                try:
                    reference = Reference.parse(f"{registry}/{prefix}{name}")
                except InvalidArgument:
                    continue
                if self.layout.image_metadata(reference) == directory / name:
                    yield reference
            elif (directory / name).is_dir() and not (directory / name).is_symlink():
                yield from self._walk_registry(registry, directory / name, f"{prefix}{name}/")

    def _read_limited(self, path: Path, limit: int) -> bytes | None:
        try:
            with opened_file(self.layout.root, path) as file:
                content = file.read(limit + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if len(content) > limit:
            raise DataLoss("file", str(path), f"is larger than {limit} bytes")
        return content

    def why_missing(self, what: str) -> Missing:
        """Why something that has no name in the repository is not there: not published, or nothing is mounted."""
        try:
            os.stat(self.layout.layers)
        except OSError as error:
            reason = Reason.UNMOUNTED if isinstance(error, FileNotFoundError) else reason_of(error)
            return Missing(reason, f"repository {self.name}: {self.layout.layers}: {error.strerror}")
        return Missing(Reason.ABSENT, f"{what} is not published in {self.name}")


def deadline_in(seconds: float) -> float:
    """The moment, for `until`, that lies so many seconds ahead."""
    return time.monotonic() + seconds


def _of_layer(head: Head, digest: Digest, path: Path) -> Head:
    if head.layer != digest.hex:
        raise DataLoss("tree record", str(path), f"is the one of layer {head.layer}")
    return head


def checked_outline(head: Head, digest: Digest) -> Outline:
    """What the head of a layer's record says stands around it; DataLoss where it is more than a node takes."""
    return _checked(outline_of(head), digest)


def _checked(outline: Outline, digest: Digest) -> Outline:
    """A node makes a file of each marker and a directory of each name above it: hostile content must not fill it."""
    marks = (*outline.whiteouts, *outline.opaques, *outline.hidden)
    count = max(len(outline.whiteouts) + len(outline.opaques), len(outline.hidden))
    if count > NAMES_LIMIT:
        raise DataLoss("layer", str(digest), f"has {count} markers, and a node takes {NAMES_LIMIT}")
    if sum(len(path) * (path.count(b"/") + 1) for path in (*marks, *outline.implied)) > _PATHS_LIMIT:
        raise DataLoss("layer", str(digest), "has markers and directories with paths longer than a node takes")
    return outline


def _names(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
