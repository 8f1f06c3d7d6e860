"""containerd's versions, as far as its configuration depends on them."""

import re
from dataclasses import dataclass
from typing import Self

from cvmfsrepo.errors import InvalidArgument

_NUMBERS = re.compile(r"(?<![\w./])v?(\d{1,4})\.(\d{1,4})(?:\.(\d{1,6}))?")


@dataclass(frozen=True, slots=True)
class Version:
    """A release; `patch` is None where only the series is known, which then counts as its newest release."""

    major: int
    minor: int
    patch: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `1.7`, `v2.1.4`, or the line that `containerd --version` prints, of whatever distribution."""
        found = _NUMBERS.search(text)
        if found is None:
            raise InvalidArgument("containerd version", text.strip(), "is not a version", "write it as 1.7 or 2.1.4")
        major, minor, patch = found.groups()
        return cls(int(major), int(minor), None if patch is None else int(patch))

    def at_least(self, major: int, minor: int, patch: int = 0) -> bool:
        """Whether this release has what came with that one."""
        if (self.major, self.minor) != (major, minor):
            return (self.major, self.minor) > (major, minor)
        return self.patch is None or self.patch >= patch

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}" + ("" if self.patch is None else f".{self.patch}")


OLDEST = Version(1, 6, 0)
"""Older ones are not tested with."""
