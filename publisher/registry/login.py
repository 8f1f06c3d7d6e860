"""What somebody is known by to a registry."""

import base64
from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True, slots=True)
class Login:
    """`basic` is `name:password` in base64, as HTTP's basic authentication has it. Where `identity` is not "", it
    counts instead: a token that only the token server takes, as some clouds give it in place of a password. Neither is
    in what is printed."""

    basic: str = field(default="", repr=False)
    identity: str = field(default="", repr=False)

    @classmethod
    def of(cls, name: str, password: str) -> Self:
        return cls(base64.b64encode(f"{name}:{password}".encode()).decode())

    @property
    def authorization(self) -> str | None:
        """The header that shows it; None where none does."""
        return f"Basic {self.basic}" if self.basic and not self.identity else None
