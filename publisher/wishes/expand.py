"""Wishes -> the images that they mean now. Pure but for the registry that is asked."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError, NotFound
from cvmfsrepo.oci import Platform, Reference
from publisher.source import Source
from publisher.wishes.wish import Wish

AT_A_TIME = 8
"""Images and lists that registries are asked about side by side."""


class Registry(Protocol):
    """What a pass asks of registries. Safe from several threads."""

    def find_digest(self, reference: Reference) -> Digest:
        """What the tag means now, in one request. NotFound where it means nothing."""

    def list_tags(self, registry: str, repository: str) -> tuple[str, ...]: ...

    def list_repositories(self, registry: str) -> tuple[str, ...]: ...

    def leave_alone(self, until: Mapping[str, float]) -> None:
        """Nothing is asked of these registries until then, in seconds since 1970."""

    def left_alone(self) -> Mapping[str, float]:
        """Those that asked for it, and until when."""

    def open(self, reference: Reference, platform: Platform) -> Source:
        """The image with its manifest and config read and verified."""


@dataclass(frozen=True, slots=True)
class Expansion:
    """The images that are wanted, each once, and the wishes whose meaning nobody could tell."""

    references: tuple[Reference, ...]
    failures: tuple[tuple[Wish, ContractError], ...]


def expand(wishes: Iterable[Wish], registry: Registry) -> Expansion:
    """A wish that cannot be expanded keeps no other from it."""
    references, failures = dict[Reference, None](), list[tuple[Wish, ContractError]]()
    for wish in wishes:
        try:
            references.update(dict.fromkeys(_meant(wish, registry)))
        except ContractError as error:
            failures.append((wish, error))
    return Expansion(tuple(references), tuple(failures))


def _meant(wish: Wish, registry: Registry) -> list[Reference]:
    if wish.reference:
        return [wish.reference]
    repositories = [wish.repository]
    if not wish.names_repository:
        repositories = [name for name in registry.list_repositories(wish.registry) if wish.wants_repository(name)]
    names = sorted(repositories)
    with ThreadPoolExecutor(AT_A_TIME) as side_by_side:
        return [
            Reference.parse(f"{wish.registry}/{name}:{tag}")  # names and tags of a registry are as hostile as any
            for name, tags in zip(names, side_by_side.map(lambda one: _tags(wish, one, registry), names), strict=True)
            for tag in sorted(tags)
            if wish.wants_tag(tag)
        ]


def _tags(wish: Wish, repository: str, registry: Registry) -> tuple[str, ...]:
    """None of a repository that only the catalogue knows: registries list what has lost its last tag."""
    try:
        return registry.list_tags(wish.registry, repository)
    except NotFound:
        if wish.names_repository:
            raise
        return ()
