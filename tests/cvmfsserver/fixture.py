"""A repository on the stand-in, for the block of a test: mounted, published to, looked at, unmounted."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from publisher.transactions.cvmfs import CvmfsTarget
from tests.cvmfsserver.command import mount
from tests.mounting import PROJECT, detach, mounts_at

FQRN = "images.example.org"


@dataclass(frozen=True, slots=True)
class Published:
    """`root` is the mount, `command` what to run as cvmfs_server, `warnings` what the target said."""

    state: Path
    root: Path
    scratch: Path
    command: Path
    warnings: list[str] = field(default_factory=list)

    @property
    def target(self) -> CvmfsTarget:
        return CvmfsTarget.of(
            FQRN, self.scratch, root=self.root, command=str(self.command), settings=self.state / "settings",
            warn=self.warnings.append,
        )  # fmt: skip

    @property
    def revision(self) -> int:
        """How many publications there were."""
        return len(list((self.state / "revisions").iterdir())) - 1

    def at(self, revision: int) -> Path:
        """The tree as a revision holds it."""
        return self.state / "revisions" / str(revision)

    @property
    def calls(self) -> list[str]:
        """The verbs that were called, in order, but for looks."""
        lines = (self.state / "calls").read_text().splitlines() if (self.state / "calls").exists() else []
        return [line.split()[0] for line in lines if not line.startswith("list")]

    @property
    def is_open(self) -> bool:
        return (self.state / "scratch").exists()

    def fail(self, *faults: str) -> None:
        (self.state / "faults").write_text("\n".join(faults))

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """The command, as another publisher would run it."""
        return subprocess.run([self.command, *arguments], capture_output=True, text=True, timeout=120)


@contextmanager
def cvmfs_repository(directory: Path, include_xattrs: bool = True) -> Iterator[Published]:
    """An empty repository below a directory of the test."""
    state, root = directory / "server", directory / "cvmfs" / FQRN
    (state / "revisions" / "0").mkdir(parents=True)
    (state / "settings" / FQRN).mkdir(parents=True)
    root.mkdir(parents=True)
    (state / "fqrn").write_text(FQRN)
    (state / "root").write_text(str(root))
    if include_xattrs:
        (state / "include-xattrs").touch()
    settings = f"CVMFS_INCLUDE_XATTRS={str(include_xattrs).lower()}\n"
    (state / "settings" / FQRN / "server.conf").write_text(settings)
    command = directory / "cvmfs_server"
    script = f'cd {PROJECT} && exec {sys.executable} -m tests.cvmfsserver.command {state} "$@"'
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    mount(state / "revisions" / "0", root)
    try:
        yield Published(state, root, directory / "scratch", command)
    finally:
        while mounts_at(root):
            detach(root)
