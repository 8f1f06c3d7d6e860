"""The published names of a repository: manifests, pointers and public links, each read to the end or an error.

A directory below `.metadata` with a `manifest.json` is an image whatever its name, and a link in the visible tree keeps
what it leads to whatever its name: what is overlooked here would be taken for unused.
"""

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cvmfsrepo.contents import decode_contents
from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss, InvalidArgument
from cvmfsrepo.layout import IMAGE_POINTER, Layout
from cvmfsrepo.oci import Manifest, Reference, is_index, parse_index, parse_manifest
from cvmfsrepo.repository import Pointer
from publisher.collecting.listed import Listing, What, digest_in
from publisher.collecting.survey import Name

MANIFEST = "manifest.json"
STORES = ("podmanStore", ".podmanStore")
MULTIARCH = ".multiarch"
_SECOND = 10**9

METADATA = ("blobs", "diffid", "trees", "index.v1", "remove-schedule.json")
"""What in `.metadata` is no registry."""

HIDDEN = frozenset(
    {
        ".layers",
        ".flat",
        ".chains",
        ".dirty-chains",
        ".metadata",
        MULTIARCH,
        ".cvmfs-publisher",
        ".cvmfsdirtab",
        *STORES,
    }
)
"""Names in the root that are no registries and no strangers."""


@dataclass(slots=True)
class Names:
    """What is found: names by what they are called, and where links lead that are no image's."""

    listing: Listing
    found: dict[str, Name] = field(default_factory=dict)
    halves: dict[str, Name] = field(default_factory=dict)
    elsewhere: set[Digest] = field(default_factory=set)

    @property
    def layout(self) -> Layout:
        return self.listing.layout

    def read(self) -> None:
        """All of them. DataLoss and InvalidArgument where one cannot be understood, Unavailable where it cannot be
        read."""
        times = self._first_published()
        for registry, what in self.listing.names(self.layout.metadata):
            if registry not in METADATA:
                self._metadata(self.layout.metadata / registry, what, times)
        for top, what in self.listing.names(self.layout.root):
            if not top.startswith(".") and top not in STORES:
                self._visible(self.layout.root / top, what, "")
            elif top not in HIDDEN:
                self.listing.pass_over(self.layout.root / top)
        for architecture, what in self.listing.names(self.layout.root / MULTIARCH):
            self._visible(self.layout.root / MULTIARCH / architecture, what, f"{MULTIARCH}/{architecture}/")

    def _metadata(self, directory: Path, what: What, times: Mapping[str, float]) -> None:
        if what is not What.DIRECTORY:
            self.listing.pass_over(directory)
            return
        inside = self.listing.names(directory)
        files = {name for name, kind in inside if kind is not What.DIRECTORY}
        known = files & {MANIFEST, IMAGE_POINTER}
        for name in sorted(files - known):
            self.listing.pass_over(directory / name)
        if known or (not inside and _is_name(_shown(directory.relative_to(self.layout.metadata)))):
            self._image(directory, known, times, whole=len(inside) == len(known))
        for name, kind in inside:
            if name not in files:
                self._metadata(directory / name, kind, times)

    def _image(self, directory: Path, files: set[str], times: Mapping[str, float], whole: bool) -> None:
        """The directory of a name; it goes with it where it holds nothing else (`whole`)."""
        name, here = _shown(directory.relative_to(self.layout.metadata)), self.listing.relative(directory)
        paths = [f"{here}/{file}" for file in (MANIFEST, IMAGE_POINTER) if file in files] + [here] * whole
        if MANIFEST not in files:
            self.halves[name] = Name(name, has_manifest=False, paths=tuple(paths))
            return
        manifests = [self._manifest(directory / MANIFEST)]
        pointer = self._pointer(directory / IMAGE_POINTER) if IMAGE_POINTER in files else None
        if pointer and (kept := self._blob(pointer.manifest)) is not None:
            manifests.append(parse_manifest(kept, f"manifest {self.layout.blob(pointer.manifest)}:"))
        self.found[name] = Name(
            name=name,
            configs=tuple(dict.fromkeys(manifest.config.digest for manifest in manifests)),
            layers=tuple(dict.fromkeys(tuple(blob.digest for blob in one.layers) for one in manifests)),
            documents=(pointer.manifest, *pointer.indexes) if pointer else (),
            platforms=frozenset(self._platforms(pointer)),
            published=times.get(name, 0) or self.listing.modified(directory / MANIFEST),
            paths=tuple(paths),
        )

    def _manifest(self, path: Path) -> Manifest:
        content = self.listing.read(path)
        return parse_manifest(content or b"", f"manifest {path} of image")

    def _pointer(self, path: Path) -> Pointer:
        return Pointer.parse(self.listing.read(path) or b"", f"image pointer {path}:")

    def _blob(self, digest: Digest) -> bytes | None:
        content = self.listing.read(self.layout.blob(digest))
        if content is not None and Digest.of(content) != digest:
            remedy = "remove it and publish the image again; until then nothing is collected"
            raise DataLoss("blob", str(self.layout.blob(digest)), "is not what its digest promises", remedy)
        return content

    def _platforms(self, pointer: Pointer | None) -> Iterator[Digest]:
        for digest in pointer.indexes if pointer else ():
            content = self._blob(digest)
            if content is not None and is_index(content):
                index = parse_index(content, f"index {self.layout.blob(digest)}:")
                yield from (entry.digest for entry in index.manifests)

    def _visible(self, path: Path, what: What, prefix: str) -> None:
        """A path of the tree that people see, with `prefix` in front of the name that it would be."""
        if what is What.DIRECTORY:
            for name, kind in self.listing.names(path):
                self._visible(path / name, kind, prefix)
        elif what is What.LINK:
            self._link(path, _shown(Path(self.listing.relative(path).removeprefix(prefix))))
        else:
            self.listing.pass_over(path)

    def _link(self, path: Path, name: str) -> None:
        target, here = self.listing.target(path), self.listing.relative(path)
        leads_to = [digest_in(target, folder) for folder in (".flat", ".chains", ".layers")] if target else []
        flat = leads_to[0] if leads_to else None
        others = [digest for digest in leads_to[1:] if digest]
        self.elsewhere.update(others)
        if not _is_name(name):
            self.elsewhere.update([flat] if flat else [])
            if flat is None and not others:
                self.listing.pass_over(path)
            return
        half = self.halves.pop(name, None) or Name(name, has_manifest=False)
        known = self.found.get(name) or replace(half, published=self.listing.modified(path))
        flats = (*known.flats, flat) if flat else known.flats
        self.found[name] = replace(known, flats=flats, paths=(*known.paths, here))

    def _first_published(self) -> Mapping[str, float]:
        """When names came, by the repository's index; a damaged one is not asked, for the next publication mends it."""
        content = self.listing.read(self.layout.index)
        try:
            contents = decode_contents(content, str(self.layout.index)) if content else None
        except DataLoss:
            return {}
        return {image.reference: image.published / _SECOND for image in contents.images} if contents else {}


def _is_name(name: str) -> bool:
    try:
        reference = Reference.parse(name)
    except InvalidArgument:
        return False
    return name == f"{reference.registry}/{reference.repository}{reference.suffix}"


def _shown(path: Path) -> str:
    """A name that can be written as text, whatever its bytes."""
    return posixpath.join(*path.parts).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
