"""Registries of tests are not waited for."""

import pytest


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that a registry would have been waited for, in order."""
    waited: list[float] = []
    monkeypatch.setattr("publisher.registry.patience.wait", waited.append)
    return waited
