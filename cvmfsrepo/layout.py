"""Every path of an unpacked repository, and nobody else joins such strings. Pure: nothing here touches a disk.

The tree is DUCC's (unpacked.cern.ch), plus what this project adds under `.metadata/`:

    .layers/<ab>/<hex>/layerfs/                   the unpacked layer, named by its compressed digest
    .layers/<ab>/<hex>/.metadata/layers.json      DUCC's: diff id and sizes
    .layers/<ab>/<hex>/.metadata/origin.json      DUCC's: the configs of the images that brought the layer
    .layers/<ab>/<hex>/.metadata/tree.v1          ours: the layer's tree record
    .layers/<ab>/<hex>/.metadata/tar-split.json.gz    ours: what gives the layer's tar back, with the files of layerfs
    .metadata/<registry>/<repo>:<tag>/manifest.json   DUCC's: the manifest with capitalised keys
    .metadata/<registry>/<repo>:<tag>/image.v1        ours: the digests of the original manifest and indexes
    .metadata/blobs/sha256/<ab>/<hex>             ours: manifests, configs and image indexes, byte for byte
    .metadata/diffid/<ab>/<hex>                   ours: relative link to the layer of this diff id
    .metadata/index.v1                            ours: all images and layers in one file
    .metadata/trees/{flat,chains}/<ab>/<hex>      ours: what a flat tree or chain of our making was made from
    .flat/<ab>/<hex>/                             an image's whole tree for Apptainer, named by its config's digest
    .chains/<ab>/<hex>/                           the tree of an image's lowest layers, named by OCI's chain id
    <registry>/<repo>:<tag>                       public link to the image's flat tree
    podmanStore/                                  an additional image store for podman
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import InvalidArgument
from cvmfsrepo.oci import Reference

CATALOG_MARKER = ".cvmfscatalog"
"""Name of the empty file that cuts a nested catalog; a visible file in every directory that carries it."""

TREE_RECORD = "tree.v1"
TAR_SPLIT = "tar-split.json.gz"
IMAGE_POINTER = "image.v1"
INDEX = "index.v1"

OWN_METADATA = frozenset({"blobs", "diffid", "trees"})
"""Directories of `.metadata` that are no registries but this project's own."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below `root`, the repository's own root directory (`/cvmfs/<repository>`, or any directory)."""

    root: Path

    @property
    def layers(self) -> Path:
        return self.root / ".layers"

    @property
    def metadata(self) -> Path:
        return self.root / ".metadata"

    def layer(self, digest: Digest) -> Path:
        return self.root / _layer(digest)

    def layerfs(self, digest: Digest) -> Path:
        return self.root / f"{_layer(digest)}/layerfs"

    def layer_metadata(self, digest: Digest) -> Path:
        return self.root / f"{_layer(digest)}/.metadata"

    def layers_json(self, digest: Digest) -> Path:
        return self.root / f"{_layer(digest)}/.metadata/layers.json"

    def origin_json(self, digest: Digest) -> Path:
        return self.root / f"{_layer(digest)}/.metadata/origin.json"

    def tree_record(self, digest: Digest) -> Path:
        return self.root / f"{_layer(digest)}/.metadata/{TREE_RECORD}"

    def tar_split(self, digest: Digest) -> Path:
        return self.root / f"{_layer(digest)}/.metadata/{TAR_SPLIT}"

    def image_metadata(self, reference: Reference) -> Path:
        return self.root / _image(reference)

    def manifest_json(self, reference: Reference) -> Path:
        return self.root / f"{_image(reference)}/manifest.json"

    def image_pointer(self, reference: Reference) -> Path:
        return self.root / f"{_image(reference)}/{IMAGE_POINTER}"

    def blob(self, digest: Digest) -> Path:
        return self.root / f".metadata/blobs/sha256/{digest.hex[:2]}/{digest.hex}"

    def diff_id_link(self, diff_id: Digest) -> Path:
        return self.root / f".metadata/diffid/{diff_id.hex[:2]}/{diff_id.hex}"

    @property
    def index(self) -> Path:
        """All images and layers in one file, for nodes."""
        return self.metadata / INDEX

    def flat(self, config: Digest) -> Path:
        return self.root / ".flat" / config.hex[:2] / config.hex

    def chain(self, chain_id: Digest) -> Path:
        return self.root / ".chains" / chain_id.hex[:2] / chain_id.hex

    @property
    def tree_marks(self) -> Path:
        return self.metadata / "trees"

    def flat_mark(self, config: Digest) -> Path:
        return self.tree_marks / "flat" / config.hex[:2] / config.hex

    def chain_mark(self, chain_id: Digest) -> Path:
        return self.tree_marks / "chains" / chain_id.hex[:2] / chain_id.hex

    def public_link(self, reference: Reference) -> Path:
        return self.root / reference.registry / f"{reference.repository}{reference.suffix}"

    @property
    def podman_store(self) -> Path:
        return self.root / "podmanStore"

    @property
    def publisher_state(self) -> Path:
        """The publisher's lock and staging area: on the same file system, so that a rename publishes."""
        return self.root / ".cvmfs-publisher"


def _layer(digest: Digest) -> str:
    """A layer's directory below the root; as text, for to join paths name by name takes a reader of thousands of layers
    longer than to read them."""
    return f".layers/{digest.hex[:2]}/{digest.hex}"


def _image(reference: Reference) -> str:
    return f".metadata/{reference.registry}/{reference.repository}{reference.suffix}"


def diff_id_target(layer: Digest) -> str:
    """Text of the link at `Layout.diff_id_link`: relative, so that the repository may be mounted anywhere."""
    return f"../../../.layers/{layer.hex[:2]}/{layer.hex}"


def flat_target(reference: Reference, config: Digest) -> str:
    """Text of the link at `Layout.public_link`, relative as well."""
    return f"{'../' * (reference.repository.count('/') + 1)}.flat/{config.hex[:2]}/{config.hex}"


def layer_of_target(text: str) -> Digest:
    """The layer that a diff id link leads to. The text must be exactly what `diff_id_target` writes."""
    digest = _digest_named(PurePosixPath(text).name, text)
    if text != diff_id_target(digest):
        raise InvalidArgument("diff id link", text, "does not lead to a layer of this repository")
    return digest


def _digest_named(name: str, text: str) -> Digest:
    try:
        return Digest(name)
    except InvalidArgument:
        raise InvalidArgument("diff id link", text, "does not end in a layer's digest") from None
