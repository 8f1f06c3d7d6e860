"""The package, built by `tools/build-deb` as by `make deb`; kept below ``.cache/packages`` while nothing changes.

``python -m tests.packages.built`` builds what the tests install.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
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
_DAY: Final = 86_400
_SOURCES: Final = (
    "cvmfsrepo", "snapshotter", "podmanstore", "publisher", "protos", "config", "docs", "debian",
    "pyproject.toml", "requirements.lock", "README.md", "CHANGELOG.md", "LICENSE", "tools/build-deb",
)  # fmt: skip


def package(version: str = VERSION) -> Path:
    """The file; built if there is none of these sources, by one process at a time."""
    tree = Tree("12", "build").root()
    more = ("--tree", tree, "--wheels", wheels(), "--python", sys.executable, "--version", version)
    (found,) = _kept(f"package-{version}-{_inputs(tree)}", lambda part: _run(TOOL, "--quick", *more, part)).iterdir()
    return found


def wheels() -> Path:
    """The libraries below a directory for each Python, fetched once for each lock."""
    wanted = [(PROJECT / name).read_bytes() for name in ("pyproject.toml", "requirements.lock", "debian/rules")]
    make = ("make", "-f", PROJECT / "debian/rules", "wheels", f"PYTHON={sys.executable}")
    known = hashlib.sha256(b"\0".join(wanted)).hexdigest()[:10]
    return _kept(f"wheels-{known}", lambda part: _run(*make, f"WHEELS={part}"))


def _kept(name: str, make: Callable[[Path], None]) -> Path:
    """The directory of that name, made once. What nobody has used for a day goes; another checkout may use the rest."""
    found = CACHE / name
    with locked(CACHE / "lock"):
        if not found.is_dir():
            for old in CACHE.iterdir():
                if old.is_dir() and time.time() - old.stat().st_mtime > _DAY:
                    shutil.rmtree(old)
            part = CACHE / "part"
            shutil.rmtree(part, ignore_errors=True)
            make(part)
            part.rename(found)
        os.utime(found)
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
