"""The facts of a node as values, and what a check says of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from snapshotter.config import Config
from snapshotter.doctor.mountinfo import Mount
from snapshotter.engineconfig.distributions import PLAIN, Distribution
from snapshotter.engineconfig.reading import EngineConfig
from snapshotter.engineconfig.versions import Version

Severity = Literal["error", "warning", "ok"]


class Finding(msgspec.Struct, frozen=True):
    """What one check says: `what` is so, `why` it matters, `fix` what to do; the last two are empty where all is well.
    An error is what keeps images from being served, or from being right; a warning what may, or cannot be told."""

    check: str
    severity: Severity
    what: str
    why: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """`program` is empty where no containerd was found. `written` is what the file of `config_path` says, None where
    there is none; `effective` what the program makes of it, with its defaults and imports. `problem` says why one of
    them cannot be had although it should."""

    distribution: Distribution = PLAIN
    program: str = ""
    version: Version | None = None
    config_path: str = PLAIN.config
    written: EngineConfig | None = None
    effective: EngineConfig | None = None
    problem: str = ""

    @property
    def config(self) -> EngineConfig | None:
        """The best that is known of how it is configured."""
        return self.effective or self.written


@dataclass(frozen=True, slots=True)
class SocketFacts:
    """`kind` is what stands at the daemon's address; `answer` is empty if a snapshotter answers there, else why it
    does not."""

    kind: Literal["socket", "missing", "other", "hidden"] = "missing"
    answer: str = ""
    mode: int = 0o600
    uid: int = 0


@dataclass(frozen=True, slots=True)
class UnitFacts:
    """Our service as systemd knows it; `known` is False where no systemd runs or it cannot be asked."""

    known: bool = False
    loaded: bool = False
    enabled: bool = False
    before: frozenset[str] = frozenset()
    engine_units: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class StateFacts:
    """The file system of the root directory, at `probed`: the root or, where it is missing, what is above it. Sizes in
    bytes; a trial's problem is empty where it succeeded, None where it was not made."""

    probed: str = ""
    filesystem: str = ""
    free: int = 0
    capacity: int = 0
    free_inodes: int = 0
    inodes: int = 0
    whiteout_problem: str | None = None
    xattr_problem: str | None = None


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """`overlay` is None where it cannot be told. `selinux` is enforcing, permissive, or empty where there is none;
    `booleans` are those of its switches that let containers use FUSE file systems."""

    release: str = ""
    overlay: bool | None = None
    index_parameter: bool = False
    user_namespace: bool = False
    selinux: str = ""
    booleans: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RepositoryFacts:
    """`problem` is why it cannot be read, empty where it can. `mount` is where its root lies. `settings` are those of
    the CVMFS client, by name, empty where they cannot be known. `listed` are the names of extended attributes that a
    directory in it shows."""

    name: str
    root: str
    problem: str = ""
    revision: int | None = None
    mount: Mount | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    listed: tuple[str, ...] = ()

    @property
    def is_cvmfs(self) -> bool:
        return self.mount is not None and self.mount.type.startswith("fuse") and self.mount.source.startswith("cvmfs")


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the checks look at. `largest_image` is in bytes, compressed, None where no index tells."""

    config: Config
    is_root: bool = True
    engine: EngineFacts = EngineFacts()
    socket: SocketFacts = SocketFacts()
    unit: UnitFacts = UnitFacts()
    state: StateFacts = StateFacts()
    kernel: KernelFacts = KernelFacts()
    repositories: tuple[RepositoryFacts, ...] = ()
    largest_image: int | None = None


def fine(check: str, what: str) -> Finding:
    return Finding(check, "ok", what)


def warning(check: str, what: str, why: str, fix: str) -> Finding:
    return Finding(check, "warning", what, why, fix)


def fault(check: str, what: str, why: str, fix: str) -> Finding:
    return Finding(check, "error", what, why, fix)
