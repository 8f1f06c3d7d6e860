"""Repositories of a test from which things are to go, and what a collection makes of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cvmfsrepo.digest import Digest
from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Reference
from publisher.collecting.collect import Report, Terms, collect, rehearse
from publisher.collecting.expiry import Rule
from publisher.collecting.memory import MemoryFile
from publisher.collecting.remove import Removal, remove
from publisher.opening import open_source
from publisher.publishing.form import OURS, Form, Order, Refused
from publisher.publishing.form import Terms as Publishing
from publisher.publishing.publish import publish_images
from publisher.transactions.directory import DirectoryTarget
from tests.images.ocilayout import Image, write_image
from tests.images.tarlayer import Dir, File, layer_tar
from tests.publisher.publishing import AMD64

DAY = 86400.0
DUCC = Form(record=False)


@dataclass
class Shelf:
    """A repository, its publisher's state, and a clock that only tests move."""

    directory: Path
    now: float = 2_000_000_000.0
    images: dict[str, Image] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.layout.root.mkdir(parents=True, exist_ok=True)

    @property
    def layout(self) -> Layout:
        return Layout(self.directory / "repository")

    @property
    def target(self) -> DirectoryTarget:
        return DirectoryTarget(self.layout, durable=False)

    @property
    def memory(self) -> MemoryFile:
        return MemoryFile.at(self.directory / "state", self.layout.root)

    def publish(self, name: str, *layers: str, form: Form = OURS, flat: bool = False) -> Image:
        """An image under `registry.example/<name>`, each layer a file of this content."""
        ref = f"registry.example/{name}"
        tars = [layer_tar([Dir("d"), File(f"d/{text}", text.encode() * 100)]) for text in layers]
        image = write_image(self.directory / "layouts" / str(len(self.images)), tars, ref)
        terms = Publishing(form, reserve=0, flat=flat)
        (outcome,) = publish_images(self.target, [Order(open_source(image.source, AMD64))], terms)
        assert not isinstance(outcome, Refused), outcome
        self.images[ref] = image
        return image

    def terms(self, grace: float = 7, leases: dict[Digest, str] | None = None, **more: object) -> Terms:
        clock, answer = (lambda: self.now), (lambda: leases or {})
        return Terms(self.memory, grace=grace, leases=answer, clock=clock, **more)  # type: ignore[arg-type]

    def collect(self, grace: float = 7, leases: dict[Digest, str] | None = None, **more: object) -> Report:
        return collect(self.target, self.terms(grace, leases, **more))

    def rehearse(self, grace: float = 7, leases: dict[Digest, str] | None = None, **more: object) -> Report:
        return rehearse(self.layout, self.terms(grace, leases, **more))

    def remove(self, *images: Image) -> Removal:
        return remove(self.target, [image.ref for image in images], self.memory, self.now)

    def has(self, image: Image) -> list[bool]:
        """Whether each of its layers is there."""
        return [self.layout.layer(Digest.parse(layer)).is_dir() for layer in image.layers]

    def manifest(self, image: Image) -> Path:
        return self.layout.manifest_json(Reference.parse(image.ref))


def went(report: Report, fate: str = "goes") -> set[tuple[str, str]]:
    return {(thing.kind, thing.name) for thing in report.things if thing.fate == fate}


def reasons(report: Report) -> dict[str, str]:
    return {thing.name: thing.reason for thing in report.things}


def rules(*texts: str) -> tuple[Rule, ...]:
    return tuple(map(Rule.parse, texts))


def layer_names(image: Image) -> Sequence[str]:
    return [layer.removeprefix("sha256:") for layer in image.layers]
