"""Repositories with metadata, written by hand, and an index of them."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from cvmfsrepo.digest import Digest, chain_id
from cvmfsrepo.guarded import GuardedRepository
from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Reference
from cvmfsrepo.repository import Repository
from snapshotter.index.indexer import Indexer
from snapshotter.index.store import Index
from tests.snapshotter.layers import NAME, HandMade, diff_id_of
from tests.snapshotter.nodes import eventually

FAST = 100_000.0
"""Visits a second: no limit."""


class Published(HandMade):
    """A repository whose layers and images have the documents that publishers leave."""

    def describe(self, layer: Digest, diff_id: Digest | None = None, size: int = 4096) -> Digest:
        """Writes a layer's `layers.json`, as DUCC does; its diff id."""
        diff_id = diff_id or diff_id_of(layer)
        entry = {"id": diff_id.hex, "diff-digest": str(diff_id), "diff-size": size}
        path = self.layout.layers_json(layer)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([entry]))
        return diff_id

    def publish(self, reference: str, layers: Sequence[Digest], config: Digest | None = None) -> Reference:
        """Writes an image's `manifest.json`, capitalised as DUCC's."""
        document = {
            "SchemaVersion": 2,
            "Config": {"Digest": str(config or Digest.of(reference.encode())), "Size": 1},
            "Layers": [{"Digest": str(layer), "Size": 1000 + number} for number, layer in enumerate(layers)],
        }
        return self.publish_text(reference, json.dumps(document))

    def publish_text(self, reference: str, text: str) -> Reference:
        """Any text as an image's `manifest.json`."""
        parsed = Reference.parse(reference)
        path = self.layout.manifest_json(parsed)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return parsed

    def keep_config(self, diff_ids: Sequence[Digest]) -> Digest:
        """Keeps an image's config byte for byte; its digest."""
        rootfs = {"type": "layers", "diff_ids": [str(diff_id) for diff_id in diff_ids]}
        content = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": rootfs}).encode()
        path = self.layout.blob(Digest.of(content))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return Digest.of(content)

    def described(self, *words: str) -> list[Digest]:
        """Layers with their documents."""
        layers = [self.add(word) for word in words]
        for layer in layers:
            self.describe(layer)
        return layers


def chain_of(layers: Sequence[Digest]) -> Digest:
    """The chain id of layers made by hand."""
    return chain_id([diff_id_of(layer) for layer in layers])


@contextmanager
def index_of(path: Path, *roots: Path, interval: float = 0.05, rate: float = FAST, name: str = NAME) -> Iterator[Index]:
    """An index of repositories that is kept up to date; the second and later ones have a number behind their name."""
    names = [name, *(f"{name}-{number}" for number in range(2, len(roots) + 1))]
    guarded = [
        GuardedRepository(Repository(each, Layout(root)), deadline=0.5, interval=0.05)
        for each, root in zip(names, roots, strict=True)
    ]
    for repository in guarded:
        repository.start_probing()
    try:
        with closing(Index(path)) as index:
            indexers = [Indexer(index, repository, interval, rate) for repository in guarded]
            for indexer in indexers:
                indexer.start()
            try:
                yield index
            finally:
                for indexer in indexers:
                    indexer.stop()
    finally:
        for repository in guarded:
            repository.stop_probing()


def wait_until_read(index: Index, name: str = NAME) -> None:
    """Until all that is there now was read: the end of a reading that began later than this call."""
    for _ in range(2):
        last = index.state(name).updated
        eventually(lambda last=last: index.state(name).complete and index.state(name).updated > last)  # type: ignore[misc]


def threads_named(word: str) -> list[str]:
    return [thread.name for thread in threading.enumerate() if word in thread.name]
