"""Whoever counts what publications do."""

from collections.abc import Sequence
from typing import Protocol

from cvmfsrepo.errors import ContractError
from publisher.publishing.form import Report


class Observer(Protocol):
    """What is told of each image. Safe from several threads."""

    def shown(self, reports: Sequence[Report], since: float) -> None:
        """An image, of one or several platforms, is as it should be. `since` is when it was pushed, or seen to have
        changed, in seconds since 1970."""

    def failed(self, error: ContractError) -> None:
        """An attempt to publish an image failed."""

    def succeeded(self) -> None:
        """All that was to be done then is done."""


class Unobserved:
    """Nobody counts."""

    def shown(self, reports: Sequence[Report], since: float) -> None:
        pass

    def failed(self, error: ContractError) -> None:
        pass

    def succeeded(self) -> None:
        pass


UNOBSERVED = Unobserved()
