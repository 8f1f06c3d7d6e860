"""Programs in a Debian that is no machine: what they see of this one."""

import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.packages.inside import inside
from tests.packages.trees import Tree

pytestmark = [pytest.mark.root, pytest.mark.engine]


def test_a_place_is_seen_by_each_program(tmp_path: Path) -> None:
    """By the second as by the first, though the first has left a directory for it; also where it is not below /tmp."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        Path(place, "here").touch()
        words = inside(Tree("12", "build"), tmp_path, [Path(place)])
        for _ in range(2):
            assert subprocess.run([*words, "ls", place], capture_output=True, text=True, check=True).stdout == "here\n"
