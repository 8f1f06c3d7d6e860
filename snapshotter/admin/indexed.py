"""What the index says, as values. Where none is kept, its questions are refused and the others answered without it."""

from collections.abc import Iterator, Mapping, Sequence

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import FailedPrecondition, NotFound
from snapshotter.admin import values
from snapshotter.index.store import Index
from snapshotter.index.values import IndexedImage, IndexedLayer

_MOST_NAMED = 100
"""Images that a layer is answered with."""


class Indexed:
    """Answers out of an index, or without one."""

    def __init__(self, index: Index | None) -> None:
        self._index = index

    def status(self, repository: str) -> values.IndexStatus | None:
        """None where no index is kept."""
        if self._index is None:
            return None
        state = self._index.state(repository)
        return values.IndexStatus(
            state.revision, state.images, state.layers, state.malformed, state.complete, state.running, state.updated,
            state.problem,
        )  # fmt: skip

    def find_size(self, layer: Digest) -> int | None:
        """Bytes of a compressed layer, where known."""
        known = self._index.find_layer(layer) if self._index else None
        return known.size if known else None

    def walk_images(self, pattern: str) -> Iterator[values.ImageFacts]:
        return map(_image, self._kept.walk_images(pattern))

    def get_image(self, reference: str) -> values.ImageFacts:
        image = self._kept.find_image(reference)
        if image is None:
            raise NotFound("image", reference, "is in the index of no repository of this node")
        return _image(image)

    def find_layers(self, wanted: Digest, users: Mapping[str, Sequence[str]]) -> tuple[values.LayerFacts, ...]:
        """The layers with this digest or diff id; `users` are the snapshots of each layer, by its hex digits."""
        if self._index is None:
            return (_used(wanted, users[wanted.hex]),) if wanted.hex in users else ()
        by_diff_id = [digest for _, digest in self._index.find_layers_of_diff_id(wanted)]
        found = [self._index.find_layer(digest) for digest in dict.fromkeys([wanted, *by_diff_id])]
        known = [layer for layer in found if layer is not None]
        images = _images_with(self._index, {layer.digest for layer in known})
        facts = [_layer(layer, images[layer.digest], users.get(layer.digest.hex, ())) for layer in known]
        if wanted.hex in users and not any(layer.digest == wanted for layer in known):
            facts.append(_used(wanted, users[wanted.hex]))
        return tuple(facts)

    def malformed(self, repository: str) -> list[tuple[str, str]]:
        return self._kept.malformed(repository)

    @property
    def _kept(self) -> Index:
        if self._index is None:
            raise FailedPrecondition("index", "", "is not kept on this node", "set index = true in the configuration")
        return self._index


def _image(image: IndexedImage) -> values.ImageFacts:
    return values.ImageFacts(
        image.reference, image.repository, str(image.config), str(image.manifest or ""), image.platform,
        tuple(map(str, image.layers)), tuple(map(str, image.chains)), image.first_revision, image.first_seen,
        image.problem,
    )  # fmt: skip


def _layer(layer: IndexedLayer, images: Sequence[str], snapshots: Sequence[str]) -> values.LayerFacts:
    return values.LayerFacts(
        str(layer.digest), layer.repository, str(layer.diff_id or ""), layer.size, layer.tar_size, layer.markers,
        layer.first_revision, layer.first_seen, tuple(images), tuple(snapshots),
    )  # fmt: skip


def _used(layer: Digest, snapshots: Sequence[str]) -> values.LayerFacts:
    """A layer that is in use and that no index knows (any more)."""
    return values.LayerFacts(str(layer), "", snapshots=tuple(snapshots))


def _images_with(index: Index, layers: set[Digest]) -> dict[Digest, list[str]]:
    images: dict[Digest, list[str]] = {layer: [] for layer in layers}
    for image in index.walk_images() if layers else ():
        for layer in layers.intersection(image.layers):
            if len(images[layer]) < _MOST_NAMED:
                images[layer].append(image.reference)
    return images
