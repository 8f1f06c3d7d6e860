"""Reads one repository into the index, as far as the index does not know it already.

Where the publisher's own index is of the revision that is mounted, one file tells all (`listed.py`). Otherwise the
repository is walked:
Each image is put there with its new layers as soon as it is read, so whatever ends a reading, the next one goes on from
there. An entry that is malformed is kept with what is wrong with it, and passed over; one that cannot be read now keeps
what was known of it, and is read again next time. What is not published any more leaves only after a walk that saw
everything.
"""

import errno
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError
from cvmfsrepo.oci import ImageConfig
from cvmfsrepo.repository import Repository
from snapshotter.index.database import Database
from snapshotter.index.listed import read_contents, take
from snapshotter.index.pace import Pace
from snapshotter.index.reading import (
    MOST_ENTRIES,
    Listing,
    list_directory,
    printable,
    read_config,
    read_layer,
    read_manifest,
)
from snapshotter.index.values import ImageFacts, LayerFacts
from snapshotter.index.writing import Writer

_DEEPEST = 32
_IN_A_ROW = 5
"""Errors in a row, after which a reading is given up: the repository is in trouble, not an entry."""


def crawl(database: Database, repository: Repository, pace: Pace, revision: int | None) -> str:
    """Reads what is new since the last time. Answers "", or what was not to be had this time: then the state stays
    incomplete. OSError where the repository is in trouble; all that `Pace.visit` and the database raise."""
    writer = Writer(database, repository.name)
    writer.begin(repository.layout.root, revision)
    contents = pace.visit(partial(read_contents, repository, revision))
    if contents is not None:
        take(writer, contents)
        return ""
    crawler = _Crawl(writer, repository, pace, revision)
    crawler.read_images()
    crawler.read_doubtful_layers()
    if not crawler.trouble:
        gone = [path for path in crawler.stamps if path not in crawler.seen]
        writer.drop_images(gone)
        writer.end()
    return crawler.trouble


class _Crawl:
    """One reading: `seen` are the paths of entries that are there, `trouble` is what went wrong last."""

    def __init__(self, writer: Writer, repository: Repository, pace: Pace, revision: int | None) -> None:
        self._writer, self._repository, self._pace, self._revision = writer, repository, pace, revision
        self._in_a_row = 0
        self.stamps = writer.get_stamps()
        self.seen, self.trouble = set[str](), ""

    def read_images(self) -> None:
        """Every entry of `.metadata`."""
        for path in self._walk():
            known = self.stamps.get(printable(path), "")
            try:
                image = self._pace.visit(partial(read_manifest, self._repository, path, known))
            except OSError as error:
                self._missed(error)
                continue
            self._in_a_row = 0
            if image:
                self._put(image)

    def read_doubtful_layers(self) -> None:
        """Layers that had no diff id: it may have been published since."""
        again = list[LayerFacts]()
        for digest in self._writer.doubtful_layers():
            if layer := self._read_layer(digest, None):
                again.append(layer)
        self._writer.put_layers(self._revision, again)

    def _walk(self) -> Iterator[PurePosixPath]:
        """Paths of images' directories below `.metadata`."""
        directories = [PurePosixPath()]
        while directories:
            directory = directories.pop()
            try:
                listing = self._pace.visit(partial(list_directory, self._repository.layout, directory))
            except OSError as error:
                if not directory.parts:
                    raise  # nothing is to be had at all
                self._missed(error)
                continue
            if len(directory.parts) >= _DEEPEST and listing.directories:
                listing = Listing(listing.images, (), "holds more directories than a name has parts")
            if listing.problem:
                self.seen.add(printable(directory))
                self._writer.put_image(None, ImageFacts(printable(directory), "", problem=listing.problem))
            directories += [directory / name for name in reversed(listing.directories)]
            for name in listing.images:
                self.seen.add(printable(directory / name))
                yield directory / name
            if len(self.seen) + len(directories) > MOST_ENTRIES:
                self.trouble = f"has more than {MOST_ENTRIES} entries, and the rest is not read"
                return

    def _put(self, image: ImageFacts) -> None:
        """An entry that is new or changed, with what its config and its new layers say."""
        sizes = dict(image.layers)
        new = self._writer.missing_layers([digest for digest, _ in image.layers])
        layers = [layer for digest in new if (layer := self._read_layer(digest, sizes[digest]))]
        if len(layers) < len(new):
            image = replace(image, stamp="")
        image = self._with_config(image)
        self._writer.put_image(self._revision, image, layers)

    def _read_layer(self, digest: Digest, size: int | None) -> LayerFacts | None:
        try:
            layer = self._pace.visit(partial(read_layer, self._repository, digest, size))
        except OSError as error:
            self._missed(error)
            return None
        self._in_a_row = 0
        return layer

    def _with_config(self, image: ImageFacts) -> ImageFacts:
        if not image.config:
            return image
        if platform := self._writer.find_platform(image.config):
            return replace(image, platform=platform)
        try:
            config = self._pace.visit(partial(read_config, self._repository, image.config))
        except ContractError as error:
            return replace(image, problem=str(error))
        except OSError as error:
            self._missed(error)
            return replace(image, stamp="")
        if config is None:
            return image
        if len(config.rootfs.diff_ids) != len(image.layers):
            problem = f"has {len(image.layers)} layers, and its config {len(config.rootfs.diff_ids)} diff ids"
            return replace(image, problem=problem)
        return replace(image, platform=_platform(config), diff_ids=config.rootfs.diff_ids)

    def _missed(self, error: OSError) -> None:
        """Notes an entry that cannot be read now; too many in a row are the repository's trouble."""
        self.trouble = f"{error.filename or ''}: {error.strerror or error}".removeprefix(": ")
        self._in_a_row += 1
        if self._in_a_row >= _IN_A_ROW or error.errno == errno.ENOTCONN:
            raise error


def _platform(config: ImageConfig) -> str:
    return f"{config.os}/{config.architecture}" if config.os and config.architecture else ""
