"""Whoever wants to know what a publication does."""

from typing import Protocol

from publisher.telling.events import Event


class Teller(Protocol):
    """Takes events in the order in which they happen."""

    def tell(self, event: Event) -> None:
        """Never raises because nobody could be told: a publication does not stop for its listeners."""


class Nobody:
    """Nobody is told."""

    def tell(self, event: Event) -> None:
        """Forgets the event."""


NOBODY = Nobody()
