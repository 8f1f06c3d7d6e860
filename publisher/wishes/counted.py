"""Counts what registries are asked, for whoever is told to ask less."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cvmfsrepo.digest import Digest
from cvmfsrepo.oci import Platform, Reference
from publisher.source import Source
from publisher.wishes.expand import Registry


@dataclass(frozen=True, slots=True)
class CountedRegistry:
    """`asked` is told the kind of each question before it is put: `digest`, `tags`, `repositories`, `image`. Layers are
    not among them, nor are repetitions and logins."""

    inner: Registry
    asked: Callable[[str], None]

    def find_digest(self, reference: Reference) -> Digest:
        self.asked("digest")
        return self.inner.find_digest(reference)

    def list_tags(self, registry: str, repository: str) -> tuple[str, ...]:
        self.asked("tags")
        return self.inner.list_tags(registry, repository)

    def list_repositories(self, registry: str) -> tuple[str, ...]:
        self.asked("repositories")
        return self.inner.list_repositories(registry)

    def leave_alone(self, until: Mapping[str, float]) -> None:
        self.inner.leave_alone(until)

    def left_alone(self) -> Mapping[str, float]:
        return self.inner.left_alone()

    def open(self, reference: Reference, platform: Platform) -> Source:
        self.asked("image")
        return self.inner.open(reference, platform)
