"""What the tests of stores share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.podmanstore.killing import install


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def killing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Kills at the n-th step that changes the disk."""
    return install(monkeypatch)
