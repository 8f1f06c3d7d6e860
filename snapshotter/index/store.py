"""What the index answers: which image, layer or chain is where. A lookup never waits, neither for a repository nor for
the indexer; what is not known yet is not found."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from cvmfsrepo.digest import Digest
from cvmfsrepo.oci import Reference
from snapshotter.index.database import Database, Row
from snapshotter.index.reading import name_of
from snapshotter.index.schema import BY_CHAIN, IMAGE, LAYER
from snapshotter.index.values import IndexedImage, IndexedLayer, IndexState

_MOST_CANDIDATES = 4
"""Layers that a lookup by content answers: the same tar in several compressions, or repositories."""
_MOST_MALFORMED = 10_000
_PAGE = 200


class Progress(Protocol):
    """Of an indexer: whether it reads now, and what keeps it from going on, or ""."""

    running: bool

    @property
    def problem(self) -> str: ...


class Index:
    """What the repositories hold, as far as it was read. Safe to be used from many threads."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path)
        self._progress: dict[str, Progress] = {}
        self.on_sight: Callable[[str, float], object] = lambda repository, seconds: None
        """Told of an image that was seen for the first time: its repository, and the seconds since its manifest was
        written there. The first reading of a repository tells nothing: all its images are new then."""

    @property
    def database(self) -> Database:
        """For the indexers, which write."""
        return self._database

    def find_layer_of_chain(self, chain: Digest) -> tuple[tuple[str, Digest], ...]:
        """The layers (repository and digest) that are on top of a chain; the same content each."""
        return self._layers(BY_CHAIN, chain.hex)

    def find_layers_of_diff_id(self, diff_id: Digest) -> tuple[tuple[str, Digest], ...]:
        """The layers (repository and digest) that unpack to a tar."""
        return self._layers("SELECT repository, digest FROM layers WHERE diff_id = ?", diff_id.hex)

    def find_image(self, reference: Reference | str) -> IndexedImage | None:
        """The image of a name. InvalidArgument where a text is none."""
        return next(iter(self.find_images(reference)), None)

    def find_images(self, reference: Reference | str) -> tuple[IndexedImage, ...]:
        """The image of a name in each repository that has it, by the repositories' names. Under a name with tag and
        digest an image of the tag alone is not found."""
        name = name_of(Reference.parse(reference) if isinstance(reference, str) else reference)
        return tuple(self._images(self._database.read(IMAGE + "i.name = ? ORDER BY i.repository", name)))

    def walk_images(self, pattern: str = "") -> Iterator[IndexedImage]:
        """All images, or those whose name matches a shell pattern; by name and by number."""
        after: tuple[str, int] = ("", 0)
        condition = "i.name GLOB ? AND (i.name, i.id) > (?, ?) ORDER BY i.name, i.id LIMIT ?"
        while rows := self._database.read(IMAGE + condition, pattern or "*", *after, _PAGE):
            yield from self._images(rows)
            after = (rows[-1][-1], rows[-1][0])

    def find_layer(self, digest: Digest) -> IndexedLayer | None:
        """A layer of an image; of the first repository by name."""
        rows = self._database.read(LAYER + "y.digest = ? ORDER BY y.repository LIMIT 1", digest.hex)
        layers = self._database.parsed(lambda: [_layer(row) for row in rows])
        return layers[0] if layers else None

    def state(self, repository: str) -> IndexState:
        """How far it is with a repository; an empty state for one that it does not know."""
        rows = self._database.read("SELECT revision, complete, updated FROM repositories WHERE name = ?", repository)
        revision, complete, updated = rows[0] if rows else (None, 0, 0)
        ((images, bad_images),) = self._database.read(
            "SELECT count(*) FILTER (WHERE config IS NOT NULL), count(*) FILTER (WHERE problem != '')"
            " FROM images WHERE repository = ?", repository,
        ) or [(0, 0)]  # fmt: skip
        ((layers, bad_layers),) = self._database.read(
            "SELECT count(*), count(*) FILTER (WHERE problem != '') FROM layers WHERE repository = ?", repository
        ) or [(0, 0)]
        progress = self._progress.get(repository)
        problem = self._database.damage or (progress.problem if progress else "")
        running = progress is not None and progress.running
        return IndexState(revision, images, layers, bad_images + bad_layers, bool(complete), running, updated, problem)

    def malformed(self, repository: str) -> list[tuple[str, str]]:
        """What is passed over in part or whole: path below the repository's root, and what is wrong with it."""
        return self._database.read(
            "SELECT '.metadata/' || path, problem FROM images WHERE repository = ?1 AND problem != '' UNION ALL"
            " SELECT '.layers/' || substr(digest, 1, 2) || '/' || digest, problem FROM layers"
            " WHERE repository = ?1 AND problem != '' ORDER BY 1 LIMIT ?2", repository, _MOST_MALFORMED,
        )  # fmt: skip

    def find_delays(self, repository: str, since: int) -> list[float]:
        """Of each image first seen since then (nanoseconds since 1970): the seconds that its manifest was old."""
        query = (
            "SELECT l.seen, i.stamp FROM images i JOIN ledger l ON (l.repository, l.name, l.digest) ="
            " (i.repository, i.reference, i.config) WHERE i.repository = ? AND l.seen >= ? AND i.stamp != ''"
        )
        rows = self._database.read(query, repository, since)
        return [(seen - int(stamp.partition(" ")[0])) / 1e9 for seen, stamp in rows]

    def join(self, repository: str, progress: Progress) -> None:
        """Whom `state` asks how it goes on."""
        self._progress[repository] = progress

    def close(self) -> None:
        self._database.close()

    def _layers(self, query: str, text: str) -> tuple[tuple[str, Digest], ...]:
        rows = self._database.read(f"{query} LIMIT ?", text, _MOST_CANDIDATES)
        return self._database.parsed(lambda: tuple((name, Digest(layer)) for name, layer in rows)) or ()

    def _images(self, rows: Sequence[Row]) -> Iterator[IndexedImage]:
        query = "SELECT layer, chain FROM image_layers WHERE image = ? ORDER BY position"
        for row in rows:
            stack = self._database.read(query, row[0])
            if image := self._database.parsed(partial(_image, row, stack)):
                yield image


def _image(row: Row, stack: Sequence[Row]) -> IndexedImage:
    _, reference, repository, config, manifest, platform, revision, seen, problem, _ = row
    layers = tuple(Digest(layer) for layer, _ in stack)
    chains = tuple(Digest(chain) for _, chain in stack if chain)
    return IndexedImage(
        reference, repository, Digest(config), _digest(manifest), platform, layers, chains, revision, seen, problem
    )


def _layer(row: Row) -> IndexedLayer:
    return IndexedLayer(Digest(row[0]), _digest(row[1]), *row[2:])


def _digest(text: str | None) -> Digest | None:
    return Digest(text) if text else None
