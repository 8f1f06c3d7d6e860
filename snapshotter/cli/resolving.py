"""What the text IMAGE of a command means: its manifest, and its config where that can be had.

Asked are the registry, as a pull would ask it; the repositories, which keep the manifest of what they publish; or an
OCI layout. Whoever answers is said, for a tag may mean another image in each of them.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cvmfsrepo.access import Access, DeadlineExpired
from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError, DataLoss, InvalidArgument, NotFound, Unavailable
from cvmfsrepo.guarded import GuardedRepository
from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Manifest, Platform, Reference, parse_config, parse_manifest
from cvmfsrepo.reasons import Reason
from cvmfsrepo.repository import Image, Missing, Repository
from snapshotter.config import Config

if TYPE_CHECKING:  # its registry client is slow to import, and not every command asks one
    from publisher.registry.registries import Registries
    from publisher.source import Source

From = Literal["auto", "registry", "repository"]

REGISTRY_SECONDS = 20.0
"""For which a registry may be silent about a manifest."""

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


@dataclass(frozen=True, slots=True)
class Resolved:
    """An image: `origin` is who said so, in words; `digest` is that of its manifest, and `config` its config's bytes,
    each None where a repository does not keep it; `source` can give its layers; `notes` are what a reader should
    know."""

    name: str
    origin: str
    manifest: Manifest
    reference: Reference | None = None
    digest: Digest | None = None
    config: bytes | None = None
    source: "Source | None" = None
    notes: tuple[str, ...] = ()

    @property
    def diff_ids(self) -> tuple[Digest, ...]:
        """Those of the layers, base first; none where the config is not known or does not go with the manifest."""
        found = parse_config(self.config).rootfs.diff_ids if self.config else ()
        return found if len(found) == len(self.manifest.layers) else ()

    @property
    def platform(self) -> str:
        """os/architecture, "" where not known."""
        if not self.config:
            return ""
        config = parse_config(self.config)
        return f"{config.os}/{config.architecture}"


def guarded_repositories(config: Config, deadline: float | None = None) -> list[GuardedRepository]:
    """The configured repositories in their order; nothing probes them."""
    seconds = deadline or config.deadline
    return [GuardedRepository(Repository(one.name, Layout(one.root)), seconds) for one in config.served]


def own_platform() -> str:
    machine = os.uname().machine
    return f"linux/{_MACHINES.get(machine, machine)}"


def resolve(
    text: str, repositories: Sequence[GuardedRepository], platform: str, origin: From = "auto",
    seconds: float = REGISTRY_SECONDS, registries: Path | None = None,
) -> Resolved:  # fmt: skip
    """The image that a text means: `oci:PATH[:REF]`, or a reference, with or without docker:// before it.

    `auto` asks the registry, and the repositories where it does not answer or gives nothing out. NotFound or
    Unavailable where nobody knows the image; InvalidArgument where the text is none.
    """
    if text.startswith("oci:"):
        return from_source(text, platform, seconds)
    reference = Reference.parse(text.removeprefix("docker://"))
    if origin == "repository":
        return _from_repositories(reference, repositories, platform)
    try:
        found = from_source(f"docker://{reference}", platform, seconds, registries)
    except ContractError as error:
        if origin == "registry" or isinstance(error, InvalidArgument | DataLoss):
            raise
        return _instead_of_registry(reference, repositories, platform, error)
    return other_than_published(found, str(reference), repositories)


def from_source(
    text: str, platform: str, seconds: float = REGISTRY_SECONDS, registries: Path | None = None
) -> Resolved:
    """The image of an OCI layout or a registry; Unavailable where that takes longer than so many seconds. `registries`
    is the file that says how they are asked, None the publisher's, if it is there."""
    from publisher.opening import open_source
    from publisher.source import parse_platform

    wanted, asked = parse_platform(platform), None if text.startswith("oci:") else _registries(registries)
    try:
        source = Access(seconds).call(partial(open_source, text, wanted, asked))
    except DeadlineExpired:
        raise Unavailable("image", text, f"was not told about within {seconds:g} s", "try again later") from None
    name = str(source.reference or text)
    kept = text.removeprefix("oci:")
    origin = f"the OCI layout {kept}" if text.startswith("oci:") else f"the registry {_registry_of(source)}"
    manifest, digest = parse_manifest(source.manifest), Digest.of(source.manifest)
    found = Resolved(name, origin, manifest, source.reference, digest, source.config, source)
    return replace(found, notes=_wrong_platform(found, wanted))


def _registries(settings: Path | None) -> "Registries":
    from publisher.registry.registries import Registries
    from publisher.registry.settings import load_settings

    return Registries(load_settings(settings))


def _registry_of(source: "Source") -> str:
    return source.reference.registry if source.reference else source.text


def _instead_of_registry(
    reference: Reference, repositories: Sequence[GuardedRepository], platform: str, error: ContractError
) -> Resolved:
    note = f"the registry was of no help: {error}"
    try:
        found = _from_repositories(reference, repositories, platform)
    except ContractError as other:
        both = f"{other.problem}; and {note}"
        raise type(other)(other.thing, other.value, both, other.remedy) from None
    return replace(found, notes=(note, *found.notes))


def _from_repositories(reference: Reference, repositories: Sequence[GuardedRepository], platform: str) -> Resolved:
    from publisher.source import parse_platform

    wanted, problems, absent = parse_platform(platform), list[str](), True
    for repository in repositories:
        answer = repository.call(partial(_published, repository.repository, reference))
        if isinstance(answer, Resolved):
            return replace(answer, notes=(*problems, *answer.notes, *_wrong_platform(answer, wanted)))
        problems.append(answer.detail)
        absent = absent and answer.reason is Reason.ABSENT
    kind = NotFound if absent else Unavailable
    remedy = "look at its name and tag" if absent else "try again when the repository answers"
    raise kind("image", str(reference), "; ".join(problems) or "no repository is configured", remedy)


def _published(repository: Repository, reference: Reference) -> Resolved | Missing:
    """What a repository says of an image; a damaged manifest is as good as none."""
    try:
        image = repository.get_image(reference)
    except NotFound:
        return repository.why_missing(f"image {reference}")
    except (DataLoss, InvalidArgument) as error:
        return Missing(Reason.MARKERS_UNAVAILABLE, f"repository {repository.name}: {error}")
    digest, config = _documents(repository, image)
    origin = f"the repository {repository.name}"
    return Resolved(str(reference), origin, image.manifest, reference, digest, config)


def _documents(repository: Repository, image: Image) -> tuple[Digest | None, bytes | None]:
    """The original manifest's digest and the config, where they are kept and whole."""
    try:
        pointer = repository.find_pointer(image.reference)
        config = repository.get_blob(image.manifest.config.digest)
    except (NotFound, DataLoss):
        return None, None
    return (pointer.manifest if pointer else None), config


def _wrong_platform(found: Resolved, wanted: Platform) -> tuple[str, ...]:
    asked = f"{wanted.os}/{wanted.architecture}"
    if found.platform in ("", asked):
        return ()
    return (f"it is an image for {found.platform}, not for {asked}",)


def other_than_published(found: Resolved, name: str, repositories: Sequence[GuardedRepository]) -> Resolved:
    """The same, with a note where a repository publishes another image by that name, or cannot be asked."""
    notes, reference = list(found.notes), Reference.parse(name.removeprefix("docker://"))
    for repository in repositories:
        answer = repository.call(partial(_published, repository.repository, reference))
        if isinstance(answer, Missing):
            if answer.reason is not Reason.ABSENT:
                notes.append(f"{answer.reason}: {answer.detail}")
        elif answer.manifest.config.digest != found.manifest.config.digest:
            notes.append(f"{repository.name} publishes another image by this name than {found.origin} gives out now")
    return replace(found, notes=tuple(notes))
