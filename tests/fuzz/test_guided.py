"""The coverage-guided fuzzer runs where it is installed."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS
from tests.fuzz.test_parsers import PROJECT

WHY_NOT = (
    "atheris is not installed: pip install -e '.[fuzz]'; requirements.lock has not got it, for it has wheels for x86_64"
    " alone, and neither 3.0 nor 3.1 has them for both Python 3.11 and 3.14"
)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason=WHY_NOT)
@pytest.mark.parametrize("name", TARGETS)
def test_a_short_run_finds_nothing(name: str, tmp_path: Path) -> None:
    """A second for each parser."""
    command = [sys.executable, "-m", "tests.fuzz.guided", name, "1", str(tmp_path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
