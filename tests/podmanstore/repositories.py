"""Small repositories that stores are built from, and what is asked of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cvmfsrepo.digest import Digest
from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Descriptor, Platform, Reference
from cvmfsrepo.repository import Repository
from podmanstore.configs import Cache, Fetched
from podmanstore.gather import Gathered, Terms, gather
from podmanstore.places import Place
from podmanstore.reading import Remembered
from podmanstore.values import HeldImage, HeldLayer, Mount
from publisher.publishing.form import OURS, Form
from tests.images.ocilayout import Compression, Image, write_image
from tests.images.tarlayer import Entry, layer_tar
from tests.publisher.publishing import publish

AMD64 = Platform("linux", "amd64")
DUCC = Form(record=False)
"""Nothing of ours: no record, no blobs."""


def reference(name: str) -> Reference:
    return Reference.parse(f"registry.example/{name}")


class Shelf:
    """A repository in a directory of a test, and the images that were published into it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory / "repository"
        self.root.mkdir(parents=True)

    @property
    def layout(self) -> Layout:
        return Layout(self.root)

    def publish(
        self, name: str, *layers: Sequence[Entry], form: Form = OURS, compression: Compression = "gzip",
        architecture: str = "amd64",
    ) -> Image:  # fmt: skip
        """An image of described layers under `registry.example/<name>`, or under a full reference."""
        ref = name if "." in name.split("/")[0] else f"registry.example/{name}"
        tars = [layer_tar(entries) for entries in layers]
        image = write_image(self.directory / "image", tars, ref, compression, architecture=architecture)
        publish(image, self.root, form)
        return image

    def layerfs(self, image: Image, number: int = 0) -> Path:
        return self.layout.layerfs(Digest.parse(image.layers[number]))

    def place(self, root: Path | None = None, links_to: Path | None = None, seconds: float = 30.0) -> Place:
        repository = Repository("unpacked.example", Layout(root or self.root))
        return Place(repository, links_to or self.root, seconds, seconds)

    def gather(
        self,
        mount: Mount = Mount.BOTH,
        known: Mapping[str, HeldLayer] | None = None,
        platform: Platform = AMD64,
        only: frozenset[Reference] | None = None,
        fetch: "Registry | None" = None,
        place: Place | None = None,
    ) -> Gathered:
        terms = Terms(mount, platform, only)
        return gather([place or self.place()], Remembered(known or {}), terms, self.cache, fetch)

    @property
    def cache(self) -> Cache:
        return Cache(self.directory / "configs")

    def image(self, mount: Mount = Mount.BOTH) -> HeldImage:
        """The only image, which can be held."""
        gathered = self.gather(mount)
        assert gathered.left_out == ()
        (image,) = gathered.images
        return image


class Registry:
    """A registry that has one image; `asked` remembers for what."""

    def __init__(self, image: Image, manifest: bytes | None = None) -> None:
        self._image = image
        self._manifest = manifest or image.blob(image.manifest).read_bytes()
        self.asked: list[Reference] = []

    def __call__(self, reference: Reference, config: Descriptor) -> Fetched:
        self.asked.append(reference)
        return Fetched(self._image.blob(self._image.config).read_bytes(), self._manifest)
