"""Whole Debians as directories, with packages installed and configured, made once below ``.cache/trees``.

``python -m tests.packages.trees NAME`` makes the tree of that name if it is missing, and prints where it is.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.engines import debs
from tests.engines.podmanroot import locked

CACHE: Final = debs.CACHE / "trees"
RELEASES: Final[Mapping[str, str]] = {"12": "bookworm", "13": "trixie"}
PYTHONS: Final[Mapping[str, str]] = {"12": "3.11", "13": "3.13"}
"""The Python that each has."""
FORMAT: Final = 1
"""Part of every tree's name: a change in how trees are made makes new ones."""
_NODE: Final = ("containerd", "dbus", "init-system-helpers", "procps", "python3", "runc", "systemd", "systemd-sysv")
PACKAGES: Final[Mapping[str, tuple[str, ...]]] = {
    "build": ("debhelper", "python3", "python3-pip", "lintian"),
    "python": (*_NODE, "libstdc++6", "pipx", "python3-venv"),
    "node": _NODE,
}


@dataclass(frozen=True, slots=True)
class Tree:
    """One release of Debian with one of the sets of packages. It is shared by all and never written to: copy it, or
    mount something above it."""

    release: str
    purpose: str

    @property
    def name(self) -> str:
        return f"{self.purpose}-{self.release}"

    def root(self) -> Path:
        """The directory; made if it is missing, by one process at a time."""
        finished = CACHE / f"{self.name}-{self._recipe()}"
        if not finished.is_dir():
            with locked(CACHE / f"{self.name}.lock"):
                if not finished.is_dir():
                    self._make(finished)
        return finished

    def _recipe(self) -> str:
        text = "\n".join([str(FORMAT), RELEASES[self.release], *PACKAGES[self.purpose]])
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def _make(self, finished: Path) -> None:
        if os.geteuid() != 0:
            raise debs.DebsError(f"tree {finished.name!r}: making it needs root, for owners and chroot; run as root")
        for left in CACHE.glob(f"{finished.name}.part-*"):
            shutil.rmtree(left)
        stage = Path(tempfile.mkdtemp(prefix=f"{finished.name}.part-", dir=CACHE))
        try:
            _bootstrap(RELEASES[self.release], PACKAGES[self.purpose], stage)
            (stage / "root").rename(finished)
        finally:
            shutil.rmtree(stage)


def _bootstrap(suite: str, packages: tuple[str, ...], stage: Path) -> None:
    """In a mount namespace of its own: whatever happens, no mount stays."""
    tool = debs.BOOTSTRAP.tool("mmdebstrap", TMPDIR=str(stage))
    command = [
        "unshare", "--mount", str(tool.path), "-q", "--mode=root", "--variant=apt",
        f"--include={','.join(packages)}", '--aptopt=APT::Sandbox::User "root"',
        '--aptopt=Acquire::Check-Valid-Until "false"', "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-exclude=/usr/share/doc/*",
        suite, str(stage / "root"), f"deb {debs.mirror()} {suite} main",
    ]  # fmt: skip
    done = subprocess.run(command, env=dict(tool.environment), capture_output=True, text=True, check=False)
    if done.returncode:
        raise debs.DebsError(f"tree of {suite}: mmdebstrap ended with {done.returncode}: {done.stderr[-3000:]}")
    (stage / "root").chmod(0o755)
    # What mmdebstrap told apt and dpkg for itself; the package that is tested is unpacked whole.
    for left in ("etc/apt/apt.conf.d/99mmdebstrap", "etc/dpkg/dpkg.cfg.d/99mmdebstrap"):
        (stage / "root" / left).unlink(missing_ok=True)


def tree(name: str) -> Tree:
    """The tree that is called so, such as ``build-12``."""
    purpose, _, release = name.partition("-")
    if purpose not in PACKAGES or release not in RELEASES:
        known = ", ".join(f"{each}-{number}" for each in PACKAGES for number in RELEASES)
        raise debs.DebsError(f"tree {name!r}: unknown; one of {known}")
    return Tree(release, purpose)


if __name__ == "__main__":
    try:
        print(tree(sys.argv[1]).root())
    except debs.DebsError as error:
        sys.exit(f"error: {error}")
