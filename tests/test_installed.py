"""The wheel, installed in an environment of its own with nothing but what it asks for: it runs there and serves, with
this machine's Python, and with those of Debian 12 and 13."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from snapshotter.snapshots import Kind
from tests.packages import built as packaged
from tests.packages.inside import inside
from tests.packages.trees import PYTHONS, Tree
from tests.snapshotter.daemon import Daemon
from tests.test_packaging import PROJECT, REPOSITORY, built, copy

__all__ = ["copy"]
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Place:
    """Where the wheel is installed: `bin` has the commands, and `words` stand before each."""

    bin: Path
    words: Sequence[str] = ()

    def command(self, name: str, *arguments: str | Path) -> list[str]:
        """One of the installed commands."""
        return [*self.words, str(self.bin / name), *map(str, arguments)]


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
    place = REPOSITORY / ".cache/wheels" / f"{HERE}-{key}"
    if not place.is_dir():
        staged = place.with_name(f"{place.name}.{os.getpid()}")
        done = run(sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", staged, *wanted)
        if done.returncode != 0:
            shutil.rmtree(staged, ignore_errors=True)
            pytest.skip(f"the dependencies cannot be fetched: {done.stderr.strip().splitlines()[-1]}")
        staged.rename(place)
    return place.resolve()


@pytest.fixture(scope="module")
def wheel(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(copy, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(
    scope="module",
    params=["here", *(pytest.param(r, marks=[pytest.mark.root, pytest.mark.engine]) for r in PYTHONS)],
)
def place(request: pytest.FixtureRequest, wheel: Path, wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """An environment that this Python or a Debian's own makes; without a network, and without this tree."""
    target = tmp_path_factory.mktemp("installed") / "environment"
    found, words, python = [wheels], list[str](), sys.executable
    if request.param != "here":
        found.append(packaged.wheels().resolve() / PYTHONS[request.param])
        places = [target.parent, wheel.parent, *found, packaged.wheels().resolve() / "build"]
        words += inside(Tree(request.param, "python"), tmp_path_factory.mktemp("debian"), places)
        python = "/usr/bin/python3"
    done = run(*words, python, "-m", "venv", target)
    assert done.returncode == 0, done.stdout + done.stderr
    links = [word for directory in found for word in ("--find-links", directory)]
    done = run(*words, target / "bin/python", "-m", "pip", "install", "--no-index", *links, wheel)
    assert done.returncode == 0, done.stdout + done.stderr
    return Place(target / "bin", words)


@pytest.fixture
def made() -> Iterator[Path]:
    """A directory that a Debian sees too: it has this machine's /tmp."""
    with tempfile.TemporaryDirectory(prefix="cv-", dir="/tmp") as directory:
        (Path(directory) / "sdist").mkdir()
        yield Path(directory)


def test_commands_start(place: Place) -> None:
    """Each of the three; the version is the project's."""
    said = run(*place.command("cvmfs-snapshotter", "--version"))
    assert (said.returncode, PROJECT["version"] in said.stdout) == (0, True), said.stderr
    for name in ("cvmfs-publisher", "cvmfs-podmanstore"):
        said = run(*place.command(name, "--help"))
        assert said.returncode == 0, said.stderr
        assert "Usage" in said.stdout or "usage" in said.stdout


def test_the_sdist_makes_the_same_wheel_there(place: Place, copy: Path, wheel: Path, made: Path) -> None:
    """As pip builds it, in an environment of its own: every module, byte for byte."""
    sdist = built(copy, "sdist", made / "sdist")
    more = ("--find-links", packaged.wheels().resolve() / "build")
    said = run(*place.command("pip", "wheel", "--no-index", *more, "--no-deps", "--wheel-dir", made / "wheel", sdist))
    assert said.returncode == 0, said.stderr
    (again,) = (made / "wheel").iterdir()
    ours, theirs = zipfile.ZipFile(wheel), zipfile.ZipFile(again)
    modules = [name for name in ours.namelist() if ".dist-info/" not in name]
    assert [name for name in modules if theirs.read(name) != ours.read(name)] == []
    assert {name for name in theirs.namelist() if ".dist-info/" not in name} == set(modules)


def test_it_says_what_containerd_must_be_told(place: Place) -> None:
    """In the words of each generation; nothing of it is asked of this machine."""
    said = run(*place.command("cvmfs-snapshotter", "config", "containerd", "--containerd-version", "2.1"))
    assert said.returncode == 0, said.stderr
    assert said.stdout == (REPOSITORY / "config/containerd-2.toml").read_text()


def test_it_serves(place: Place, tmp_path: Path) -> None:
    """The installed daemon answers a Prepare over its socket."""

    class Installed(Daemon):
        def command(self) -> Sequence[str]:
            return place.command("cvmfs-snapshotter", "serve", *self.arguments())

    (tmp_path / "repository").mkdir()
    with (
        Installed(tmp_path / "root", absolute_mountpoint=str(tmp_path / "repository")) as daemon,
        daemon.client() as client,
    ):
        assert client.prepare("container", "", {}) != ()
        assert client.stat("container").kind is Kind.ACTIVE
