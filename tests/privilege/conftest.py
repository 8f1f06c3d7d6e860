"""What the tests of a hostile repository share."""

from pathlib import Path

import pytest

from snapshotter.config import Config
from tests.snapshotter.layers import NAME, HandMade


@pytest.fixture
def repository(tmp_path: Path) -> HandMade:
    return HandMade(tmp_path / "repository")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What no repository may show: a tree that looks like a layer, and a secret."""
    directory = tmp_path / "outside"
    (directory / "layerfs" / "etc").mkdir(parents=True)
    (directory / "layerfs" / "etc" / "shadow").write_text("secret")
    (directory / ".metadata").mkdir()
    return directory


@pytest.fixture
def config(tmp_path: Path, repository: HandMade) -> Config:
    return Config(
        root=str(tmp_path / "root"), repository=NAME, absolute_mountpoint=str(repository.root), deadline=10.0,
        probe_interval=0.05,
    )  # fmt: skip
