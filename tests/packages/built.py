"""The package, built by `tools/build-deb` as by `make deb`; kept below ``.cache/packages`` while nothing changes.

``python -m tests.packages.built`` builds what the tests install.
"""

import hashlib
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.engines import debs
from tests.engines.podmanroot import locked
from tests.packages.trees import Tree
from tests.standins import PROJECT

CACHE: Final = debs.CACHE / "packages"
TOOL: Final = PROJECT / "tools" / "build-deb"
VERSION: Final = str(tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"])
NEXT: Final = "{}.{}.0".format(VERSION.split(".")[0], int(VERSION.split(".")[1]) + 1)
"""A higher version of the same sources."""
_SOURCES: Final = (
    "cvmfsrepo", "snapshotter", "podmanstore", "publisher", "protos", "config", "docs", "debian",
    "pyproject.toml", "requirements.lock", "README.md", "CHANGELOG.md", "LICENSE", "tools/build-deb",
)  # fmt: skip


def package(version: str = VERSION) -> Path:
    """The file; built if there is none of these sources, by one process at a time."""
    tree = Tree("12", "build").root()
    directory = CACHE / f"{version}-{_inputs(tree)}"
    with locked(CACHE / "lock"):
        if not directory.is_dir():
            for old in CACHE.glob(f"{version}-*"):
                shutil.rmtree(old)
            part = CACHE / "part"
            shutil.rmtree(part, ignore_errors=True)
            _run(TOOL, "--quick", "--tree", tree, "--wheels", wheels(), "--python", sys.executable,
                 "--version", version, part)  # fmt: skip
            part.rename(directory)
    (found,) = directory.iterdir()
    return found


def wheels() -> Path:
    """The libraries below a directory for each Python, fetched once for each lock."""
    wanted = [(PROJECT / name).read_bytes() for name in ("pyproject.toml", "requirements.lock", "debian/rules")]
    found = CACHE / "wheels" / hashlib.sha256(b"\0".join(wanted)).hexdigest()[:10]
    with locked(CACHE / "wheels.lock"):
        if not found.is_dir():
            shutil.rmtree(found.parent, ignore_errors=True)
            part = found.with_suffix(".part")
            _run("make", "-f", PROJECT / "debian/rules", "wheels", f"PYTHON={sys.executable}", f"WHEELS={part}")
            part.rename(found)
    return found


def _inputs(tree: Path) -> str:
    found = hashlib.sha256(tree.name.encode())
    for path in _files():
        found.update(f"\0{path.relative_to(PROJECT)}\0{path.stat().st_mode}\0".encode() + path.read_bytes())
    return found.hexdigest()[:10]


def _files() -> Iterator[Path]:
    for name in _SOURCES:
        paths = [PROJECT / name] if (PROJECT / name).is_file() else sorted((PROJECT / name).rglob("*"))
        yield from (path for path in paths if path.is_file() and path.suffix != ".pyc")


def _run(*command: str | Path) -> None:
    done = subprocess.run([str(word) for word in command], cwd=PROJECT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise debs.DebsError(f"command {command[0]}: ended with {done.returncode}: {done.stderr[-3000:]}")


if __name__ == "__main__":
    try:
        print(package(), package(NEXT))
    except debs.DebsError as error:
        sys.exit(f"error: {error}")
