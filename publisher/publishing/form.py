"""How a publication is made, and what it did."""

from dataclasses import dataclass

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError, InvalidArgument
from cvmfsrepo.oci import Reference
from cvmfsrepo.tree import Notation
from publisher.source import Source
from publisher.telling.teller import NOBODY, Teller
from publisher.transactions.lock import Stopped, never
from publisher.unpacking import asingested


@dataclass(frozen=True, slots=True)
class Form:
    """How the repository is written. The defaults are this project's; the others are for tests against what DUCC
    leaves: `as_ingested` takes from a raw layer what an ingest loses, without `record` there is nothing that
    DUCC does not write, without `layers_json` not even DUCC's own file."""

    notation: Notation = Notation.OVERLAY
    as_ingested: bool = False
    owner: tuple[int, int] = asingested.OWNER
    record: bool = True
    layers_json: bool = True

    def __post_init__(self) -> None:
        if self.as_ingested and self.notation is not Notation.OCI:
            raise InvalidArgument(
                "whiteouts", str(self.notation), "cannot be as ingested, for an ingest keeps the raw names",
                "use the notation oci",
            )  # fmt: skip


OURS = Form()


@dataclass(frozen=True, slots=True)
class Terms:
    """What is asked of a publication. `reserve` bytes of the file system stay free (None: a twentieth, at most 1 GiB);
    `workers` layers are unpacked at a time; another publisher is given `wait` seconds to end, or until `stopped`. With
    `flat` images get their trees for Apptainer, in which `linked` says whether files are hard links to those of layers.
    With `take_over` layers that another publisher left are read once more, and get their records. `teller` is told of
    each layer and image."""

    form: Form = OURS
    reserve: int | None = None
    workers: int = 2
    wait: float = 0
    stopped: Stopped = never
    flat: bool = False
    linked: bool = False
    take_over: bool = False
    teller: Teller = NOBODY


PLAINLY = Terms()


@dataclass(frozen=True, slots=True)
class Order:
    """One image that is to be published, under `name` or else under the source's own reference."""

    source: Source
    name: Reference | None = None

    @property
    def reference(self) -> Reference:
        """InvalidArgument where neither says it."""
        if reference := self.name or self.source.reference:
            return reference
        raise InvalidArgument(
            "source", self.source.text, "does not say under which name to publish its image",
            "give --name HOST/NAME:TAG, or copy the image with such a name as its REF",
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Report:
    """What a publication did for one image: digests of the layers that it `published`, that were `present`, that were
    `taken` over, and that are there without a record of ours and were `left` as they are, and of `foreign` ones, which
    are skipped; compressed `read` bytes,
    and `changed` if anything of the repository was; `flat` what became of its flat tree, "" where there is none;
    `error` why it was asked for and is not there, and `problem` that in words, or ""."""

    reference: Reference
    manifest: Digest
    published: tuple[Digest, ...]
    present: tuple[Digest, ...]
    left: tuple[Digest, ...]
    taken: tuple[Digest, ...]
    foreign: tuple[Digest, ...]
    read: int
    seconds: float
    changed: bool
    flat: str = ""
    error: ContractError | None = None

    @property
    def problem(self) -> str:
        return str(self.error) if self.error else ""


@dataclass(frozen=True, slots=True)
class Refused:
    """An image that was not published, and why; the others of the publication were."""

    order: Order
    error: ContractError
