"""Images of OCI layouts on disk."""

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from cvmfsrepo.errors import InvalidArgument, NotFound, Unavailable
from cvmfsrepo.oci import (
    Descriptor,
    Platform,
    Reference,
    choose_manifest,
    is_index,
    parse_index,
    parse_manifest,
)
from publisher.source import Source, read_document

FORMS = "give oci:PATH[:REF] or docker://HOST/NAME[:TAG|@sha256:DIGEST]"

_REF_NAME = "org.opencontainers.image.ref.name"


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


def open_layout(text: str, rest: str, platform: Platform) -> Source:
    """The image of `PATH[:REF]`, of a source text. NotFound, InvalidArgument, Unavailable, or DataLoss for bytes that
    are not what their digest promises."""
    path, name = _layout_and_name(rest)
    try:
        index = parse_index((path / "index.json").read_bytes(), f"index of the OCI layout {path}:")
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound("OCI layout", str(path), "has no index.json", FORMS) from None
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
    raise NotFound("OCI layout", rest, "is not a directory", FORMS)


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
