"""One line of a wish list: an image, or a pattern of images, in one registry."""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Self

from cvmfsrepo.errors import InvalidArgument
from cvmfsrepo.oci import DOCKER_HUB, Reference, in_library

_FORM = "write https://REGISTRY/NAME:TAG"
_GLOB = re.compile(r"[*?\[]")
_PATTERN = re.compile(r"[A-Za-z0-9_.*?\[\]!/-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Wish:
    """`plain` is http. `reference` is the image where one is named; otherwise `repository` and `tag` are shell
    patterns, in which `*` also stands for slashes."""

    plain: bool
    registry: str
    repository: str
    tag: str
    reference: Reference | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """A name without tag is `:latest`, and an image of Docker Hub itself is in its `library`, as everywhere; a
        pattern of repositories without tag means all tags."""
        scheme, mark, rest = text.partition("://")
        if not mark or scheme not in ("http", "https"):
            raise InvalidArgument("wish", text, "does not begin with https:// or http://", _FORM)
        registry, _, path = rest.partition("/")
        if not path or not ("." in registry or ":" in registry or registry == "localhost"):
            raise InvalidArgument("wish", text, "names no registry and repository", _FORM)
        if registry == DOCKER_HUB and not _GLOB.search(path.partition(":")[0]):
            path = in_library(path)
        repository, _, tag = path.partition(":")
        if "@" in path or not _GLOB.search(path):
            reference = Reference.parse(f"{registry}/{path}")
            return cls(scheme == "http", registry, reference.repository, reference.tag or "", reference)
        tag = tag or ("*" if _GLOB.search(repository) else "latest")
        Reference.parse(f"{registry}/name:tag")
        if not _PATTERN.fullmatch(repository) or not _PATTERN.fullmatch(tag) or "/" in tag:
            raise InvalidArgument("wish", text, "is no pattern of repositories and tags", _FORM)
        return cls(scheme == "http", registry, repository, tag, None)

    @property
    def names_repository(self) -> bool:
        """Whether only the tag is a pattern."""
        return not _GLOB.search(self.repository)

    def wants_repository(self, name: str) -> bool:
        return fnmatchcase(name, self.repository)

    def wants_tag(self, tag: str) -> bool:
        return fnmatchcase(tag, self.tag)

    def __str__(self) -> str:
        scheme = "http" if self.plain else "https"
        return f"{scheme}://{self.reference or f'{self.registry}/{self.repository}:{self.tag}'}"
