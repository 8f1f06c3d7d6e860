"""What is read of a repository for the index: one visit each, all of which may wait for a network.

For a new image two files are opened, its manifest and its config; for a new layer two, its tree record and
`layers.json`. A layer's own catalog is not needed for them: they stand in the one of `.layers/<ab>`.
"""

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cvmfsrepo.contained import holder_of, listed_directory, opened_file
from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError, DataLoss, InvalidArgument
from cvmfsrepo.layersjson import find_layers_json
from cvmfsrepo.layout import OWN_METADATA, Layout
from cvmfsrepo.oci import ImageConfig, Reference, parse_config, parse_manifest
from cvmfsrepo.repository import Repository
from snapshotter.index.values import ImageFacts, LayerFacts

MOST_NAMES = 100_000
"""Names in one directory: more are not looked at."""

MOST_ENTRIES = 100_000
"""Entries of one repository: beyond them it is not read."""

MOST_LAYERS = 1_000
"""Of one image; containerd and overlayfs take a tenth of it."""

_DOCUMENT_LIMIT = 4 << 20
"""Bytes of a manifest or a config, as registries have it."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A directory of `.metadata`: names of images' directories, and of those that hold more. `problem` says what is
    wrong with the directory itself, or ""."""

    images: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()
    problem: str = ""


def list_directory(layout: Layout, relative: PurePosixPath) -> Listing:
    """One directory of `.metadata`, sorted. OSError where it cannot be had, also because nothing is mounted."""
    is_top, names = not relative.parts, list[tuple[str, bool]]()
    try:
        with listed_directory(layout.root, layout.metadata / relative) as directory, os.scandir(directory) as entries:
            for entry in entries:
                names.append((entry.name, entry.is_dir(follow_symlinks=False)))
                if len(names) > MOST_NAMES:
                    break
    except FileNotFoundError:
        os.stat(layout.layers)  # raises where nothing is mounted
        return Listing()
    if len(names) > MOST_NAMES:
        return Listing(problem=f"has more than {MOST_NAMES} names")
    if not is_top and ("manifest.json", False) in names:
        return Listing(problem="holds a manifest and is not named like an image")
    folders = sorted(name for name, is_directory in names if is_directory and not (is_top and name in OWN_METADATA))
    images = tuple(name for name in folders if not is_top and (":" in name or "@" in name))
    return Listing(images, tuple(name for name in folders if name not in images))


def read_manifest(repository: Repository, relative: PurePosixPath, known: str) -> ImageFacts | None:
    """An image's entry, without what its config says; None where its stamp is `known`. OSError where the repository
    does not answer."""
    layout, path = repository.layout, printable(relative)
    try:
        reference = Reference.parse(str(relative))
        if layout.image_metadata(reference) != layout.metadata / relative:
            raise InvalidArgument("image reference", path, "is not spelled as the publisher spells it")
    except InvalidArgument as error:
        return ImageFacts(path, "", problem=str(error))
    try:
        stamp = _stamp(layout.root, layout.manifest_json(reference))
        if stamp == known:
            return None
        manifest = parse_manifest(_read(layout.root, layout.manifest_json(reference), _DOCUMENT_LIMIT), "manifest of")
        if len(manifest.layers) > MOST_LAYERS:
            raise DataLoss("manifest of", path, f"has {len(manifest.layers)} layers")
    except (FileNotFoundError, NotADirectoryError):
        return ImageFacts(path, "", problem="has no manifest.json")
    except ContractError as error:
        return ImageFacts(path, stamp, str(reference), problem=str(error))
    layers = tuple((layer.digest, layer.size) for layer in manifest.layers)
    return ImageFacts(
        path, stamp, str(reference), name_of(reference), manifest.config.digest, reference.digest, layers=layers
    )


def read_config(repository: Repository, config: Digest) -> ImageConfig | None:
    """The config of an image, verified, where it is kept. DataLoss or InvalidArgument where it is damaged; OSError
    where the repository does not answer."""
    path = repository.layout.blob(config)
    try:
        content = _read(repository.layout.root, path, _DOCUMENT_LIMIT)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if Digest.of(content) != config:
        raise DataLoss("image config", str(path), "is not what its digest promises")
    return parse_config(content)


def read_layer(repository: Repository, digest: Digest, size: int | None) -> LayerFacts:
    """What stands beside a layer. OSError where the repository does not answer."""
    problems, diff_id, markers = list[str](), None, None
    try:
        if head := repository.find_head(digest):
            diff_id, markers = Digest(head.diff_id), len(head.whiteouts) + len(head.opaques)
    except ContractError as error:
        problems.append(str(error))
    try:
        document = find_layers_json(repository.layout, digest)
    except ContractError as error:
        document = None
        problems.append(str(error))
    said = document.diff_id if document else None
    if diff_id and said and diff_id != said:
        problems.append(f"layer {digest}: its record and layers.json say different diff ids")
        return LayerFacts(digest, size, problem="; ".join(problems))
    diff_id = diff_id or said
    return LayerFacts(digest, size, diff_id, document.tar_size if document else None, markers, "; ".join(problems))


def name_of(reference: Reference) -> str:
    """What a person calls the image."""
    return str(reference.at_docker_hub())


def printable(path: PurePosixPath | str) -> str:
    """A path as text that a database takes and that does nothing to a terminal."""
    text = os.fsencode(str(path)).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _stamp(root: Path, path: Path) -> str:
    with holder_of(root, path) as (directory, name):
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    return f"{status.st_mtime_ns} {status.st_size}"


def _read(root: Path, path: Path, limit: int) -> bytes:
    with opened_file(root, path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise DataLoss("file", str(path), f"is larger than {limit} bytes")
    return content
