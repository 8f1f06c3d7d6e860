"""A node is killed at each single step of what it does, its start and stop too; tests.snapshotter.crashing says how."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.snapshotter.stories import STORIES

PROJECT = Path(__file__).resolve().parents[2]
FEWEST_KILLS = {"local": 200, "remote": 250, "cleanup": 200, "restored": 80}
"""A story that has fewer steps than this is not counted right."""


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory if there is one, for SIGKILL does not care, and a disk's syncs take most of the time."""
    directory = Path(tempfile.mkdtemp(prefix="cv-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    yield directory
    shutil.rmtree(directory)


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize("story", STORIES)
def test_kill_at_every_step(memory: Path, story: str) -> None:
    """The next start finds the state before or after the call that got no answer, every record with its directory
    or links, and no orphan; a kill in that start changes nothing; the story can be told to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.snapshotter.crashing", str(memory), story],
        cwd=PROJECT, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["failures"] == []
    assert said["kills"] >= FEWEST_KILLS[story]
