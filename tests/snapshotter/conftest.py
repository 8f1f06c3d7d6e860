"""What the tests of the node share: a repository made by hand, and a snapshotter that serves it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from snapshotter.config import Config
from snapshotter.server import opened
from snapshotter.snapshotter import Snapshotter
from tests.snapshotter.layers import NAME, HandMade


@pytest.fixture
def repository(tmp_path: Path) -> HandMade:
    """An empty repository."""
    return HandMade(tmp_path / "repository")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """The configuration of a node that serves it; the directory need not be there."""
    return Config(root=str(tmp_path / "root"), repository=NAME, absolute_mountpoint=str(tmp_path / "repository"))


@pytest.fixture
def verbs(config: Config) -> Iterator[Snapshotter]:
    """A snapshotter in this process."""
    with opened(config) as snapshotter:
        yield snapshotter
