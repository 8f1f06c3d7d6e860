"""An image's config and manifest, byte for byte: podman's id of an image is the digest of its config.

DUCC keeps neither as it was: its `manifest.json` has other keys, and configs are only in the store it writes for
podman. So they are looked for in several places, in this order, and each is verified by its digest:

1. the repository's `.metadata/blobs/`, where this project's publisher keeps them;
2. `podmanStore/overlay-images/<id>/` of the repository, DUCC's;
3. the store's own directory `configs/`, which `build --fetch-configs` fills from the registry that the image is named
   after. It is podman's to ignore, and not part of what is computed: without it those images are left out.
"""

import base64
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cvmfsrepo.contained import opened_file
from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError, DataLoss, InvalidArgument, NotFound
from cvmfsrepo.oci import MANIFEST_TYPES, Descriptor, Manifest, Reference, parse_manifest
from cvmfsrepo.repository import Image, Repository

DOCUMENT_LIMIT = 16 << 20
"""Bytes of a config or manifest: it is read whole."""

FETCH = "build with --fetch-configs"


@dataclass(frozen=True, slots=True)
class Documents:
    """`manifest` is what the registry has where `is_original`, else made from DUCC's; `indexes` led to it."""

    config: bytes
    manifest: bytes
    is_original: bool
    indexes: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a registry has under a reference: the config that was asked for, and the manifest (with the indexes that
    led to it) that the reference means today."""

    config: bytes
    manifest: bytes
    indexes: tuple[bytes, ...] = ()


Fetch = Callable[[Reference, Descriptor], Fetched]
"""Reads the config of a descriptor from the registry of a reference; ContractError says why it cannot."""


@dataclass(frozen=True, slots=True)
class Cache:
    """Documents that were fetched, in files named by their digests. A damaged one counts as not there."""

    directory: Path

    def find(self, digest: Digest) -> bytes | None:
        try:
            content = (self.directory / digest.hex).read_bytes()
        except FileNotFoundError:
            return None
        return content if Digest.of(content) == digest else None

    def keep(self, content: bytes) -> None:
        _write(self.directory / Digest.of(content).hex, content)

    def find_original(self, manifest: Manifest) -> list[bytes]:
        """The manifest that was fetched for what DUCC says of it, and the indexes that led to it; or nothing."""
        try:
            digests = [Digest.parse(text) for text in self._original(manifest).read_text().split()]
        except (FileNotFoundError, UnicodeDecodeError, InvalidArgument):
            return []
        contents = [self.find(digest) for digest in digests]
        return [] if None in contents else [content for content in contents if content is not None]

    def keep_original(self, manifest: Manifest, *contents: bytes) -> None:
        """As `find_original` gives them."""
        for content in contents:
            self.keep(content)
        _write(self._original(manifest), "\n".join(str(Digest.of(content)) for content in contents).encode())

    def _original(self, manifest: Manifest) -> Path:
        return self.directory / f"{Digest.of(made_manifest(manifest)).hex}.original"


def find_documents(repository: Repository, image: Image, cache: Cache) -> Documents | None:
    """An image's documents, or None where nobody has its config. DataLoss where the only one is damaged, OSError
    where the repository does not answer."""
    config = _find_config(repository, image.manifest.config.digest, cache)
    if config is None:
        return None
    return _published(repository, image, config) or _cached(image, config, cache)


def fetch_documents(fetch: Fetch, image: Image, cache: Cache) -> Documents:
    """The documents from the image's registry, kept in the cache. ContractError where they are not to be had."""
    wanted = image.manifest.config
    fetched = fetch(image.reference, wanted)
    if Digest.of(fetched.config) != wanted.digest:
        raise DataLoss("image config", str(wanted.digest), "was not what the registry gave out", "publish it again")
    cache.keep(fetched.config)
    if _is_manifest_of(image, fetched.manifest):
        cache.keep_original(image.manifest, fetched.manifest, *fetched.indexes)
    return _cached(image, fetched.config, cache)


def made_manifest(manifest: Manifest) -> bytes:
    """A manifest with the keys as the specifications spell them, from what DUCC kept of it. Its digest is its own."""
    docker = "docker" in (manifest.mediatype or manifest.config.mediatype)
    kind = MANIFEST_TYPES[1] if docker else MANIFEST_TYPES[0]
    config_kind = "application/vnd.docker.container.image.v1+json" if docker else _OCI_CONFIG
    layer_kind = "application/vnd.docker.image.rootfs.diff.tar.gzip" if docker else _OCI_LAYER
    document = {
        "schemaVersion": 2,
        "mediaType": manifest.mediatype or kind,
        "config": _spelled(manifest.config, config_kind),
        "layers": [_spelled(layer, layer_kind) for layer in manifest.layers],
    }
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


_OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
_OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def _spelled(descriptor: Descriptor, kind: str) -> dict[str, object]:
    return {"mediaType": descriptor.mediatype or kind, "size": descriptor.size, "digest": str(descriptor.digest)}


def read_small(root: Path, path: Path) -> bytes | None:
    """A small regular file below a repository's root, or None where there is none."""
    try:
        with opened_file(root, path) as file:
            content = file.read(DOCUMENT_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if len(content) > DOCUMENT_LIMIT:
        raise DataLoss("file", str(path), f"is larger than {DOCUMENT_LIMIT} bytes")
    return content


def _find_config(repository: Repository, digest: Digest, cache: Cache) -> bytes | None:
    problem: ContractError | None = None
    try:
        return repository.get_blob(digest)
    except NotFound:
        pass
    except DataLoss as error:
        problem = error
    found = _in_podman_store(repository, digest) or cache.find(digest)
    if found is None and problem:
        raise problem
    return found


def _in_podman_store(repository: Repository, digest: Digest) -> bytes | None:
    name = "=" + base64.b64encode(str(digest).encode()).decode()
    path = repository.layout.root / "podmanStore" / "overlay-images" / digest.hex / name
    try:
        content = read_small(repository.layout.root, path)
    except DataLoss:  # something that is not a file
        return None
    return content if content is not None and Digest.of(content) == digest else None


def _published(repository: Repository, image: Image, config: bytes) -> Documents | None:
    """With the manifest that the publisher's pointer names, if it is the one that DUCC's copy tells of: another
    publication under the same name may have left an old pointer."""
    try:
        pointer = repository.find_pointer(image.reference)
        if pointer is None:
            return None
        manifest = repository.get_blob(pointer.manifest)
        indexes = tuple(repository.get_blob(index) for index in pointer.indexes)
    except (NotFound, DataLoss):
        return None
    return Documents(config, manifest, True, indexes) if _is_manifest_of(image, manifest) else None


def _cached(image: Image, config: bytes, cache: Cache) -> Documents:
    original = cache.find_original(image.manifest)
    if original and _is_manifest_of(image, original[0]):
        return Documents(config, original[0], True, tuple(original[1:]))
    return Documents(config, made_manifest(image.manifest), False)


def _is_manifest_of(image: Image, content: bytes) -> bool:
    """Whether a manifest is of the same config and the same layers as DUCC's copy."""
    try:
        manifest = parse_manifest(content)
    except InvalidArgument:
        return False
    known = image.manifest
    same = [layer.digest for layer in manifest.layers] == [layer.digest for layer in known.layers]
    return same and manifest.config.digest == known.config.digest


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all; not synced, for what is read is verified."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as staged:
        file = Path(staged, path.name)
        file.write_bytes(content)
        file.chmod(0o644)
        file.replace(path)
