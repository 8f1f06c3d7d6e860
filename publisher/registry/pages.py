"""What is kept of a registry's lists from one pass to the next."""

from typing import Protocol

import msgspec


class Page(msgspec.Struct, frozen=True):
    """`path` is below /v2/, `following` that of the next page or ""."""

    path: str
    etag: str
    names: tuple[str, ...]
    following: str = ""


class Known(Protocol):
    """Pages of earlier passes, by a list's name."""

    def find_list(self, name: str) -> tuple[Page, ...]: ...

    def keep_list(self, name: str, pages: tuple[Page, ...]) -> None: ...


class Nothing:
    """No earlier pass is known."""

    def find_list(self, name: str) -> tuple[Page, ...]:
        return ()

    def keep_list(self, name: str, pages: tuple[Page, ...]) -> None:
        pass
