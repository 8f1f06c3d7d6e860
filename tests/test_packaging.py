"""What a user installs: what wheel and sdist hold and say, and that the declared versions fit one another."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = {"snapshotter", "podmanstore", "publisher", "cvmfsrepo", "protos"}
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
GENERATED = REPOSITORY / "protos/containerd/services/snapshots/v1"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is built from: a copy, for a build leaves directories behind. It has a .cache, as a working tree has."""
    copy = tmp_path_factory.mktemp("build")
    for path in REPOSITORY.iterdir():
        if path.is_dir() and not path.name.startswith("."):
            shutil.copytree(path, copy / path.name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        elif path.is_file():
            shutil.copy(path, copy / path.name)
    (copy / ".cache/debs").mkdir(parents=True)
    (copy / ".cache/debs/package.py").touch()
    return copy


def built(source: Path, kind: str, target: Path) -> Path:
    """The one file that a build of `kind` (wheel, sdist) makes in `target`."""
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = target.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from the tree."""
    return zipfile.ZipFile(built(copy, "wheel", tmp_path_factory.mktemp("wheel")))


@pytest.fixture(scope="module")
def unpacked(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked."""
    target = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(built(copy, "sdist", tmp_path_factory.mktemp("sdist"))) as archive:
        archive.extractall(target, filter="data")
    (top,) = target.iterdir()
    return top


@pytest.mark.slow
def test_the_sdist_makes_the_same_wheel(unpacked: Path, wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Who has the sdist alone builds what we build, byte for byte of every file but the list of them."""
    again = zipfile.ZipFile(built(unpacked, "wheel", tmp_path))
    assert set(again.namelist()) == set(wheel.namelist())
    names = [name for name in wheel.namelist() if not name.endswith("/RECORD")]
    assert [name for name in names if again.read(name) != wheel.read(name)] == []


@pytest.mark.slow
def test_the_sdist_holds_what_a_packager_needs(unpacked: Path) -> None:
    """Units, configuration, pages and exact versions; nothing of .cache, and no half of the tests."""
    files = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    tops = ("config", "docs")
    wanted = {p.relative_to(REPOSITORY).as_posix() for t in tops for p in (REPOSITORY / t).rglob("*") if p.is_file()}
    assert wanted | {"LICENSE", "CHANGELOG.md", "README.md", "pyproject.toml", "requirements.lock"} <= files
    assert [name for name in files if name.startswith((".cache", "tests/", "tools/"))] == []


def metadata(wheel: zipfile.ZipFile) -> Message:
    """The wheel's METADATA."""
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_bytes(wheel.read(name))


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """No tests, tools or configuration at the top, where they would meet those of other projects."""
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES


@pytest.mark.slow
def test_the_wheel_holds_every_module(wheel: zipfile.ZipFile) -> None:
    """Every module of every package, also those below directories without an __init__.py, and the definitions."""
    expected = {
        path.relative_to(REPOSITORY).as_posix()
        for package in PACKAGES
        for pattern in ("*.py", "*.pyi", "*.proto")
        for path in (REPOSITORY / package).rglob(pattern)
    }
    assert expected - set(wheel.namelist()) == set()


@pytest.mark.slow
def test_metadata(wheel: zipfile.ZipFile) -> None:
    """Name, Python, and the licence as an SPDX expression with its text."""
    found = metadata(wheel)
    assert found["Name"] == "cvmfs-snapshotter"
    assert found["Requires-Python"] == ">=3.11"
    assert found["License-Expression"] == "Apache-2.0"
    (licence,) = (name for name in wheel.namelist() if name.endswith("/licenses/LICENSE"))
    assert b"Apache License" in wheel.read(licence)


@pytest.mark.slow
def test_console_scripts(wheel: zipfile.ZipFile) -> None:
    """The commands of both sides, and that each names a function that is there."""
    (name,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    scripts = dict(re.findall(r"^(\S+) = (\S+)$", wheel.read(name).decode(), re.MULTILINE))
    assert scripts == {
        "cvmfs-snapshotter": "snapshotter.cli.main:main",
        "cvmfs-podmanstore": "podmanstore.cli:main",
        "cvmfs-publisher": "publisher.cli.main:main",
    }
    for target in scripts.values():
        module, function = target.split(":")
        source = wheel.read(module.replace(".", "/") + ".py").decode()
        assert re.search(rf"^def {function}\(", source, re.MULTILINE), target


def test_dependencies_have_lower_bounds_only() -> None:
    """An upper bound guesses at the future; a missing lower one lets a version in that was never run."""
    for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]:
        assert re.fullmatch(r"[a-z-]+>=[\d.]+", text), text


def test_generated_modules_accept_the_lowest_runtime() -> None:
    """They refuse a protobuf or grpcio older than the generator's: the lower bounds are the generator's versions."""
    bounds = dict(text.split(">=") for text in PROJECT["dependencies"])
    message = re.search(r"Protobuf Python Version: (\S+)", (GENERATED / "snapshots_pb2.py").read_text())
    service = re.search(r"GRPC_GENERATED_VERSION = '(\S+)'", (GENERATED / "snapshots_pb2_grpc.py").read_text())
    assert message is not None
    assert service is not None
    assert (bounds["protobuf"], bounds["grpcio"]) == (message[1], service[1])


def test_the_lock_fits_the_bounds() -> None:
    """Each direct dependency is locked at a version that its bound allows; the lock holds versions and nothing else."""
    lines = (REPOSITORY / "requirements.lock").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9_.-]+==[\w.]+", line)] == []
    locked = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in (line.split("==") for line in lines)}
    for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]:
        requirement = Requirement(text)
        assert locked[requirement.name] in requirement.specifier, text
