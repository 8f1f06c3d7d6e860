"""Debian's own look at the package."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.packages import built
from tests.packages.inside import inside
from tests.packages.trees import Tree

pytestmark = [pytest.mark.engine, pytest.mark.root, pytest.mark.slow]


def test_lintian_has_nothing_to_say(tmp_path: Path) -> None:
    """No errors and no warnings but those that debian/cvmfs-snapshotter.lintian-overrides gives a reason for, each of
    which there still is."""
    package = built.package().resolve()
    lintian = inside(Tree("12", "build"), tmp_path, [package.parent])
    done = subprocess.run([*lintian, "lintian", "--display-info", package], capture_output=True, text=True, check=False)
    found = re.findall(r"^(?:[EW]: .*|.*mismatched-override.*)$", done.stdout, re.MULTILINE)
    assert (found, done.returncode) == ([], 0), done.stderr
