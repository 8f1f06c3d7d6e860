"""The repository's index, `.metadata/index.v1`, as it has to be after a publication: see `cvmfsrepo/contents.py`.

What the last index says is taken over where it is still true: another publisher may have added, changed or removed
images, which the directories tell, so only names that are new or may have changed are read again. An image that cannot
be read is not listed; a node that asks for it finds out why by itself.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cvmfsrepo.contents import FORMAT, VERSION, Contents, ListedImage, ListedLayer
from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError
from cvmfsrepo.layersjson import LayersJson, find_layers_json, parse_layers_json
from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Descriptor, Manifest, Reference, parse_config
from cvmfsrepo.repository import Repository
from cvmfsrepo.tree import Head, decode_head
from publisher.publishing.wanted import WantedImage


@dataclass(frozen=True, slots=True)
class Listed:
    """One image and its layers, as they are to be listed; `revision` and `published` as in `ListedImage`, `published` 0
    for one that comes now."""

    reference: str
    config: Digest
    manifest: Digest | None
    platform: str
    layers: tuple[ListedLayer, ...]
    revision: int | None = None
    published: int = 0

    def is_same(self, other: "Listed | None") -> bool:
        """Whether the same image stands under the name."""
        return other is not None and (self.config, self.manifest) == (other.config, other.manifest)


def contents_with(listed: Iterable[Listed], revision: int | None, now: int) -> Contents:
    """The index of these images, shown first by `revision`; `now` is the time of what is new, in nanoseconds."""
    numbers, layers, images = dict[Digest, int](), list[ListedLayer](), list[ListedImage]()
    for image in sorted(listed, key=lambda image: image.reference):
        for layer in image.layers:
            if layer.digest not in numbers:
                numbers[layer.digest] = len(layers)
                layers.append(layer)
        images.append(
            ListedImage(
                reference=image.reference,
                raw_config=_raw(image.config),
                raw_manifest=_raw(image.manifest) if image.manifest else None,
                platform=image.platform,
                layers=tuple(numbers[layer.digest] for layer in image.layers),
                revision=image.revision if image.published else revision,
                published=image.published or now,
            )
        )
    return Contents(FORMAT, VERSION, revision, tuple(images), tuple(layers))


def read_listed(layout: Layout) -> dict[str, Listed]:
    """The images that are published now, by reference, from the last index as far as it holds. OSError where the
    repository cannot be read."""
    repository = Repository(str(layout.root), layout)
    last = _last(repository)
    found = dict[str, Listed]()
    for reference in repository.walk_images():
        known = last.get(str(reference))
        image = known or _read(repository, reference)
        if image is not None:
            found[image.reference] = image
    return found


def listed_of(image: WantedImage, layout: Layout, staged: Mapping[Digest, Path]) -> Listed:
    """An image of this publication; the layers that it brings are in their staged directories."""
    return Listed(
        reference=str(image.reference),
        config=image.manifest.config.digest,
        manifest=Digest.of(image.source.manifest),
        platform=_platform(image.source.config),
        layers=_layers(image.manifest, lambda blob: _layer(layout, blob, staged.get(blob.digest))),
    )


def keeping_first(image: Listed, known: Listed | None) -> Listed:
    """The image with the time at which it came first, where it was there already."""
    if known is None or not image.is_same(known):
        return image
    return replace(image, revision=known.revision, published=known.published)


def _last(repository: Repository) -> Mapping[str, Listed]:
    """What the last index lists, if nobody else can have published since."""
    try:
        contents = repository.find_contents()
    except ContractError:
        return {}
    if contents is None or contents.revision != repository.find_revision():
        return {}
    return {image.reference: _known(contents, image) for image in contents.images}


def _known(contents: Contents, image: ListedImage) -> Listed:
    return Listed(
        image.reference, image.config, image.manifest, image.platform, contents.layers_of(image), image.revision,
        image.published,
    )  # fmt: skip


def _read(repository: Repository, reference: Reference) -> Listed | None:
    """An image as its documents tell it; None where they cannot be read."""
    try:
        manifest, pointer = repository.get_image(reference).manifest, repository.find_pointer(reference)
        published = repository.layout.manifest_json(reference).stat().st_mtime_ns
        return Listed(
            reference=str(reference),
            config=manifest.config.digest,
            manifest=pointer.manifest if pointer else reference.digest,
            platform=_kept_platform(repository, manifest.config.digest),
            layers=_layers(manifest, lambda blob: _layer(repository.layout, blob, None)),
            published=published,
        )
    except ContractError:
        return None


def _kept_platform(repository: Repository, config: Digest) -> str:
    try:
        return _platform(repository.get_blob(config))
    except ContractError:
        return ""


def _platform(config: bytes) -> str:
    parsed = parse_config(config)
    return f"{parsed.os}/{parsed.architecture}" if parsed.os and parsed.architecture else ""


def _layers(manifest: Manifest, make: Callable[[Descriptor], ListedLayer]) -> tuple[ListedLayer, ...]:
    return tuple(make(blob) for blob in manifest.layers)


def _layer(layout: Layout, blob: Descriptor, staged: Path | None) -> ListedLayer:
    """What stands beside a layer, published or staged. Damaged documents tell nothing."""
    head: Head | None
    said: LayersJson | None
    try:
        if staged:
            with (staged / ".metadata" / layout.tree_record(blob.digest).name).open("rb", 0) as record:
                head = decode_head(record, str(staged))
        else:
            head = Repository(str(layout.root), layout).find_head(blob.digest)
        document = staged / ".metadata/layers.json" if staged else None
        if document and document.exists():
            said = parse_layers_json(document.read_bytes(), str(document))
        else:
            said = find_layers_json(layout, blob.digest)
    except (ContractError, FileNotFoundError):
        return ListedLayer(_raw(blob.digest), size=blob.size)
    diff_id = Digest(head.diff_id) if head is not None else said.diff_id if said is not None else None
    return ListedLayer(
        raw_digest=_raw(blob.digest),
        raw_diff_id=_raw(diff_id) if diff_id else None,
        size=blob.size,
        tar_size=said.tar_size if said is not None else None,
        markers=len(head.whiteouts) + len(head.opaques) if head is not None else None,
    )


def _raw(digest: Digest) -> bytes:
    return bytes.fromhex(digest.hex)
