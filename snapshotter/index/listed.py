"""The publisher's index -> this node's: one file is read, and only what is new in it is written.

It is believed only where it is of the revision that is mounted: otherwise somebody else has published since, or the
repository has no revisions, and a walk finds what is true.
"""

from cvmfsrepo.contents import Contents, ListedImage, ListedLayer
from cvmfsrepo.errors import ContractError
from cvmfsrepo.oci import Reference
from cvmfsrepo.repository import Repository
from snapshotter.index.reading import MOST_ENTRIES, MOST_LAYERS, name_of, printable
from snapshotter.index.values import ImageFacts, LayerFacts
from snapshotter.index.writing import Writer


def read_contents(repository: Repository, revision: int | None) -> Contents | None:
    """What the index lists, or None where it is not to be believed. OSError where the repository does not answer."""
    if revision is None:
        return None
    try:
        contents = repository.find_contents()
        if contents is None or contents.revision != revision or not _is_bounded(contents):
            return None
        for image in contents.images:
            Reference.parse(image.reference)
    except ContractError:
        return None
    return contents


def _is_bounded(contents: Contents) -> bool:
    return len(contents.images) <= MOST_ENTRIES and all(len(image.layers) <= MOST_LAYERS for image in contents.images)


def take(writer: Writer, contents: Contents) -> None:
    """Puts there what the index of the node does not have, and drops what is published no more. Raises as `Writer`."""
    known, seen = writer.get_stamps(), set[str]()
    for image in contents.images:
        facts = _facts(contents, image)
        seen.add(facts.path)
        if known.get(facts.path) != facts.stamp:
            listed = contents.layers_of(image)
            new = set(writer.missing_layers([layer.digest for layer in listed]))
            layers = {layer.digest: _layer(layer) for layer in listed if layer.digest in new}
            revision = contents.revision if image.revision is None else image.revision
            writer.put_image(revision, facts, list(layers.values()))
    writer.drop_images([path for path in known if path not in seen])
    writer.end()


def _facts(contents: Contents, image: ListedImage) -> ImageFacts:
    """The stamp begins as that of a walk does, with the time at which the image came, and goes on otherwise: a later
    walk reads the image again."""
    layers = contents.layers_of(image)
    diff_ids = tuple(layer.diff_id for layer in layers if layer.diff_id is not None)
    reference = Reference.parse(image.reference)
    return ImageFacts(
        path=printable(f"{reference.registry}/{reference.repository}{reference.suffix}"),
        stamp=f"{image.published} listed {image.config.hex} {image.manifest.hex if image.manifest else ''}",
        reference=image.reference,
        name=name_of(reference),
        config=image.config,
        manifest=reference.digest,
        platform=image.platform,
        layers=tuple((layer.digest, layer.size or 0) for layer in layers),
        diff_ids=diff_ids if len(diff_ids) == len(layers) else (),
    )


def _layer(layer: ListedLayer) -> LayerFacts:
    return LayerFacts(layer.digest, layer.size, layer.diff_id, layer.tar_size, layer.markers)
