"""The wheel, installed in an environment of its own with nothing but what it asks for: it runs there and serves."""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

import pytest

from snapshotter.snapshots import Kind
from tests.snapshotter.daemon import Daemon
from tests.test_packaging import PROJECT, REPOSITORY, built, copy

__all__ = ["copy"]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
pytestmark = pytest.mark.slow


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Outside the tree, so that nothing is imported from it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, cwd="/", env=environment
    )


@pytest.fixture(scope="module")
def wheels() -> Path:
    """The dependencies as wheels for this Python, fetched once for each set of bounds."""
    wanted: Sequence[str] = PROJECT["dependencies"]
    key = hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:16]
    place = REPOSITORY / ".cache/wheels" / f"{PYTHON}-{key}"
    if not place.is_dir():
        staged = place.with_name(f"{place.name}.{os.getpid()}")
        done = run(sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", staged, *wanted)
        if done.returncode != 0:
            shutil.rmtree(staged, ignore_errors=True)
            pytest.skip(f"the dependencies cannot be fetched: {done.stderr.strip().splitlines()[-1]}")
        staged.rename(place)
    return place


@pytest.fixture(scope="module")
def commands(copy: Path, wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the installed commands."""
    wheel = built(copy, "wheel", tmp_path_factory.mktemp("wheel"))
    place = tmp_path_factory.mktemp("installed")
    venv.create(place, with_pip=True)
    done = run(place / "bin/python", "-m", "pip", "install", "--no-index", "--find-links", wheels, wheel)
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "bin"


def test_commands_start(commands: Path) -> None:
    """Each of the three; the version is the project's."""
    said = run(commands / "cvmfs-snapshotter", "--version")
    assert (said.returncode, PROJECT["version"] in said.stdout) == (0, True), said.stderr
    for name in ("cvmfs-publisher", "cvmfs-podmanstore"):
        said = run(commands / name, "--help")
        assert said.returncode == 0, said.stderr
        assert "Usage" in said.stdout or "usage" in said.stdout


def test_it_serves(commands: Path, tmp_path: Path) -> None:
    """The installed daemon answers a Prepare over its socket."""

    class Installed(Daemon):
        def command(self) -> Sequence[str]:
            return (str(commands / "cvmfs-snapshotter"), "serve", *self.arguments())

    (tmp_path / "repository").mkdir()
    with (
        Installed(tmp_path / "root", absolute_mountpoint=str(tmp_path / "repository")) as daemon,
        daemon.client() as client,
    ):
        assert client.prepare("container", "", {}) != ()
        assert client.stat("container").kind is Kind.ACTIVE
