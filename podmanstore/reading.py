"""One image and its documents: read from the repository, remembered from an earlier build, or fetched from a registry.

Layers never change under their digest. An image does under its name: what was read of it is believed while the two
files that a publication writes are the same, as their stamps tell. A CVMFS mount needs none of this while its revision
is the same, and gives inode numbers anew when it is mounted: there every image is read again after a publication. So it
is where a file system is mounted read-only: its files may have been given their times, as in an image of a disk.
"""

import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec

from cvmfsrepo.contained import holder_of
from cvmfsrepo.errors import ContractError, Unavailable
from cvmfsrepo.oci import Manifest, Reference
from cvmfsrepo.repository import Image, Repository
from podmanstore.configs import Cache, Documents, Fetch, fetch_documents, find_documents
from podmanstore.names import podman_name
from podmanstore.values import HeldLayer, LeftOut

Stamp = tuple[int, ...]
"""Numbers that are others when an image was published anew."""

_SETTLED_NS = 2_000_000_000
"""A file that changed no longer ago may change once more within one tick of its file system's clock."""


class KeptImage(msgspec.Struct, frozen=True):
    """An image with the publisher's original documents, as of its `stamp`; `manifest` is DUCC's copy."""

    stamp: Stamp
    manifest: Manifest
    config: bytes
    original: bytes
    indexes: tuple[bytes, ...] = ()


class Remembered(msgspec.Struct, frozen=True):
    """What earlier builds read: `layers` by their hex digits, `images` by `key_of`."""

    layers: Mapping[str, HeldLayer] = {}
    images: Mapping[str, KeptImage] = {}


@dataclass(frozen=True, slots=True)
class Read:
    """An image as it was read; without documents where its config is nowhere, `kept` where it may be remembered."""

    image: Image
    documents: Documents | None
    kept: KeptImage | None = None


def key_of(repository: Repository, reference: Reference) -> str:
    return f"{repository.layout.root}\0{reference}"


def read_image(
    repository: Repository, cache: Cache, known: Mapping[str, KeptImage] | None, reference: Reference
) -> Read | LeftOut:
    """An image of the repository, read only where it is not `known`; None remembers nothing. OSError where the
    repository does not answer."""
    try:
        stamp = None if known is None else _find_stamp(repository, reference)
        kept = known.get(key_of(repository, reference)) if known and stamp else None
        if kept and kept.stamp == stamp:
            documents = Documents(kept.config, kept.original, is_original=True, indexes=kept.indexes)
            return Read(Image(reference, kept.manifest), documents, kept)
        image = repository.get_image(reference)
        return _read(stamp, image, find_documents(repository, image, cache))
    except ContractError as error:
        return LeftOut(podman_name(reference), str(error))


def _read(stamp: Stamp | None, image: Image, documents: Documents | None) -> Read:
    """To be remembered where nothing better can come: a manifest that was made from DUCC's may be fetched one day."""
    if stamp is None or documents is None or not documents.is_original:
        return Read(image, documents)
    kept = KeptImage(stamp, image.manifest, documents.config, documents.manifest, documents.indexes)
    return Read(image, documents, kept)


def _find_stamp(repository: Repository, reference: Reference) -> Stamp | None:
    """None where there is none, or none that can be trusted yet."""
    layout, numbers = repository.layout, list[int]()
    try:
        with holder_of(layout.root, layout.manifest_json(reference)) as (directory, manifest):
            for name in (manifest, layout.image_pointer(reference).name):
                found = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if not stat.S_ISREG(found.st_mode) or time.time_ns() - found.st_ctime_ns < _SETTLED_NS:
                    return None
                numbers += [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
    except FileNotFoundError:
        return None
    return tuple(numbers)


_FETCHERS = 4


def with_fetched(found: Sequence[Read | LeftOut], fetch: Fetch, cache: Cache) -> Iterator[Read | LeftOut]:
    """Those without original documents with what the registries have of them. One that does not answer is not asked
    again."""
    silent_ones = dict[str, Unavailable]()

    def complete(read: Read | LeftOut) -> Read | LeftOut:
        """An image that has a config and no original manifest is served without."""
        if isinstance(read, LeftOut) or (read.documents and read.documents.is_original):
            return read
        registry = read.image.reference.registry
        try:
            if registry in silent_ones:
                raise silent_ones[registry]
            return Read(read.image, fetch_documents(fetch, read.image, cache))
        except ContractError as error:
            if isinstance(error, Unavailable):
                silent_ones[registry] = error
            problem = f"its config is not in the repository and could not be fetched: {error}"
            return read if read.documents else LeftOut(podman_name(read.image.reference), problem)

    with ThreadPoolExecutor(_FETCHERS) as pool:
        yield from pool.map(complete, found)
