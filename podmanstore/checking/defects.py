"""What can be wrong with a store: a closed set, each kind with what it does to podman and what mends it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum


class Severity(StrEnum):
    """An error breaks commands or shows a wrong root file system; a warning costs something or breaks a side road."""

    ERROR = "error"
    WARNING = "warning"


class Kind(StrEnum):
    """One word for a program; the sentences of a Defect say the rest."""

    STORE_MISSING = "store-missing"
    STORE_SILENT = "store-silent"
    STORE_PATH = "store-path"
    STORE_PATH_LONG = "store-path-long"
    DIRECTORY_MISSING = "directory-missing"
    LOCK_MISSING = "lock-missing"
    LOCK_SHORT = "lock-short"
    UNREADABLE = "unreadable"
    INDEX_MISSING = "index-missing"
    JSON_BROKEN = "json-broken"
    JSON_TYPE = "json-type"
    ID_MALFORMED = "id-malformed"
    DIGEST_MALFORMED = "digest-malformed"
    LAYER_TWICE = "layer-twice"
    LAYER_ID = "layer-id"
    DIFF_ID_AS_LAYER_ID = "diff-id-as-layer-id"
    PARENT_MISSING = "parent-missing"
    PARENT_CYCLE = "parent-cycle"
    DIFF_DIGEST_MISSING = "diff-digest-missing"
    COMPRESSED_DIGEST_MISSING = "compressed-digest-missing"
    SIZE_MISSING = "size-missing"
    COMPRESSION_MISSING = "compression-missing"
    TAR_SPLIT_DANGLING = "tar-split-dangling"
    IMAGE_TWICE = "image-twice"
    NAME_TWICE = "name-twice"
    NAME_NOT_NORMALISED = "name-not-normalised"
    TOP_LAYER_MISSING = "top-layer-missing"
    CHAIN_DIFFERS = "chain-differs"
    IMAGE_ID = "image-id"
    MANIFEST_DIGEST = "manifest-digest"
    MANIFEST_DIGEST_MISSING = "manifest-digest-missing"
    MANIFEST_BROKEN = "manifest-broken"
    CONFIG_BROKEN = "config-broken"
    BIG_DATA_MISSING = "big-data-missing"
    BIG_DATA_UNLISTED = "big-data-unlisted"
    BIG_DATA_INCOMPLETE = "big-data-incomplete"
    BIG_DATA_DIFFERS = "big-data-differs"
    LAYER_DIRECTORY_MISSING = "layer-directory-missing"
    LAYER_DIRECTORY_UNLISTED = "layer-directory-unlisted"
    LINK_MISSING = "link-missing"
    LINK_MALFORMED = "link-malformed"
    LINK_TWICE = "link-twice"
    LINK_STRAY = "link-stray"
    SHORT_LINK_MISSING = "short-link-missing"
    SHORT_LINK_TARGET = "short-link-target"
    LOWER_MISSING = "lower-missing"
    LOWER_EMPTY = "lower-empty"
    LOWER_ABSOLUTE = "lower-absolute"
    LOWER_MALFORMED = "lower-malformed"
    LOWER_DANGLING = "lower-dangling"
    LOWER_LAYERS_DIFFER = "lower-layers-differ"
    LOWER_INCOMPLETE = "lower-incomplete"
    DIFF_MISSING = "diff-missing"
    DIFF_RELATIVE = "diff-relative"
    DIFF_DANGLING = "diff-dangling"
    DIFF_NUMBERED = "diff-numbered"
    REPOSITORY_UNMOUNTED = "repository-unmounted"
    REPOSITORY_SILENT = "repository-silent"
    CATALOG_VISIBLE = "catalog-visible"
    MARKER_VISIBLE = "marker-visible"
    DIRECTORY_TWICE = "directory-twice"
    DEPTH = "depth"
    DEPTH_PODMAN_4 = "depth-podman-4"
    PAGE_PODMAN_4 = "page-podman-4"


BUILD = "build the store anew with `cvmfs-podmanstore build`"
_MODES = "make directories 0755 and files 0644"
_MOUNT = "mount the repository, or take the store out of storage.conf while it is away"

_WARNINGS = frozenset(
    {
        Kind.STORE_PATH_LONG,
        Kind.LOCK_SHORT,
        Kind.INDEX_MISSING,
        Kind.LAYER_ID,
        Kind.COMPRESSED_DIGEST_MISSING,
        Kind.SIZE_MISSING,
        Kind.COMPRESSION_MISSING,
        Kind.TAR_SPLIT_DANGLING,
        Kind.NAME_NOT_NORMALISED,
        Kind.MANIFEST_DIGEST_MISSING,
        Kind.BIG_DATA_UNLISTED,
        Kind.LINK_STRAY,
        Kind.MARKER_VISIBLE,
        Kind.DEPTH_PODMAN_4,
        Kind.PAGE_PODMAN_4,
    }
)

_REMEDIES = {
    Kind.STORE_MISSING: "build it, or take it out of storage.conf: every podman command fails while it is missing",
    Kind.STORE_SILENT: "keep the store on a local disk: every podman command hangs with it",
    Kind.STORE_PATH: "build the store at a path without them",
    Kind.STORE_PATH_LONG: "build the store at a shorter path",
    Kind.UNREADABLE: _MODES,
    Kind.REPOSITORY_UNMOUNTED: _MOUNT,
    Kind.REPOSITORY_SILENT: "see why the mount hangs; containers on these layers hang with it",
    Kind.DIFF_DANGLING: "have the layer published again, or take it out with `cvmfs-podmanstore prune`",
    Kind.TAR_SPLIT_DANGLING: f"{BUILD}; until then images on the layer can be run but not saved or pushed",
    Kind.DEPTH: "run it where it can be pulled, or rebuild the image with fewer layers",
    Kind.DEPTH_PODMAN_4: "run it with podman 5, or rebuild the image with fewer layers",
    Kind.PAGE_PODMAN_4: "run it with podman 5, or build the store at a shorter path",
}


@dataclass(frozen=True, slots=True)
class Defect:
    """One thing that is wrong. `where` names the thing that is meant (kind and repr), `problem` what is wrong with it
    and what comes of it, `remedy` what to do."""

    kind: Kind
    where: str
    problem: str
    remedy: str
    severity: Severity

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}; {self.remedy}"


@dataclass(slots=True)
class Findings:
    """Collects defects; one that was found before is not repeated."""

    _found: dict[Defect, None] = field(default_factory=dict)

    def add(self, kind: Kind, where: str, problem: str, remedy: str = "") -> None:
        """`where` is made by `named` or `image_named`; without a remedy the kind's own is given."""
        severity = Severity.WARNING if kind in _WARNINGS else Severity.ERROR
        self._found[Defect(kind, where, problem, remedy or _REMEDIES.get(kind, BUILD), severity)] = None

    def __iter__(self) -> Iterator[Defect]:
        return iter(self._found)


def named(thing: str, value: object) -> str:
    """`thing repr`, cut: what stands in a damaged file may be of any length."""
    text = repr(str(value))
    return f"{thing} {text if len(text) <= 300 else text[:280] + '...'}"


def said(value: object) -> str:
    """A value inside a sentence."""
    return named("", value).lstrip()
