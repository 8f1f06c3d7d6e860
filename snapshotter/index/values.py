"""What the index answers. Times are nanoseconds since 1970; what is not known is None."""

from dataclasses import dataclass

from cvmfsrepo.digest import Digest


@dataclass(frozen=True, slots=True)
class IndexedLayer:
    """A layer of a published image. `size` are the bytes of its compressed blob, `tar_size` those of its tar, `markers`
    its deletions and opaque directories. `first_revision` and `first_seen` are of this node's first sight of it."""

    digest: Digest
    diff_id: Digest | None
    size: int | None
    tar_size: int | None
    markers: int | None
    repository: str
    first_revision: int | None
    first_seen: int


@dataclass(frozen=True, slots=True)
class IndexedImage:
    """An image by the name it is published under. `manifest` is the digest in that name, if it has one. `platform` is
    os/architecture, "" where its config is not kept. `chains` are the chain ids of its layers, base first, as
    far as diff ids are known: it may be shorter than `layers`. `first_revision` and `first_seen` are of this node's
    first sight of what stands under the name now. `problem` says why chains are not to be trusted, or ""."""

    reference: str
    repository: str
    config: Digest
    manifest: Digest | None
    platform: str
    layers: tuple[Digest, ...]
    chains: tuple[Digest, ...]
    first_revision: int | None
    first_seen: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class IndexState:
    """How far the index of one repository is: `complete` when all that `revision` holds was read; `malformed` entries
    are passed over; `running` while it is being read; `updated` is the end of the last complete reading, 0 if there
    was none; `problem` is what keeps it from going on now, or ""."""

    revision: int | None = None
    images: int = 0
    layers: int = 0
    malformed: int = 0
    complete: bool = False
    running: bool = False
    updated: int = 0
    problem: str = ""

    def __str__(self) -> str:
        """As a clause of a sentence about a repository's index."""
        revision = f" of revision {self.revision}" if self.revision is not None else ""
        if self.complete:
            said = f"is complete{revision}, with {self.images} images"
        else:
            said = f"is not complete{revision}, with {self.images} images so far"
        return f"{said} ({self.problem})" if self.problem else said


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """What was read of a layer; `problem` says what is wrong with its documents, or ""."""

    digest: Digest
    size: int | None = None
    diff_id: Digest | None = None
    tar_size: int | None = None
    markers: int | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What was read of an entry of `.metadata`. `path` is relative to it, for people; `stamp` changes when the entry
    does, and is "" where it has to be read again. `config` is None where the entry is malformed, which `problem` says;
    `layers` are those of the manifest, base first, `diff_ids` what the config says of them, if it is kept."""

    path: str
    stamp: str
    reference: str = ""
    name: str = ""
    config: Digest | None = None
    manifest: Digest | None = None
    platform: str = ""
    layers: tuple[tuple[Digest, int], ...] = ()
    diff_ids: tuple[Digest, ...] = ()
    problem: str = ""
