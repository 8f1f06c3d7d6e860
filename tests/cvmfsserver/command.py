"""The stand-in's command line: `python -m tests.cvmfsserver.command STATE VERB ...`, for one repository.

STATE holds `fqrn`, `root` (where it is mounted), `revisions/<n>`, and while a transaction is open `scratch`. The file
`faults` names verbs that fail, `publish` or `abort`, one a line; `full` fails a publication as a full disk does, and
`kill-VERB` kills the caller when the verb begins, `kill-after-VERB` when it has ended.
"""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

from cvmfsrepo import xattrs
from tests.cvmfsserver.storing import ingest, sync_union


class Failed(Exception):
    """What the command says before it ends with status 1."""


class Command:
    """One call of the command."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.fqrn = (state / "fqrn").read_text()
        self.root = Path((state / "root").read_text())
        self.scratch = state / "scratch"
        self.faults = (state / "faults").read_text().split() if (state / "faults").exists() else []

    @property
    def revision(self) -> int:
        return max(int(path.name) for path in (self.state / "revisions").iterdir())

    def path(self, revision: int) -> Path:
        return self.state / "revisions" / str(revision)

    def list(self) -> None:
        busy = " - in transaction" if self.scratch.exists() else ""
        print(f"other-{self.fqrn} (stratum0 - in transaction / local)\n{self.fqrn} (stratum0{busy} / local)")

    def transaction(self, wait: float | None = None, template: str | None = None) -> None:
        until = time.monotonic() + (wait or 0)
        while self.scratch.exists():
            if wait is None or time.monotonic() >= until:
                raise Failed(f"Repository {self.fqrn} is already in a transaction")
            time.sleep(0.05)
        self.scratch.mkdir()
        current, work = self.scratch / "current", self.scratch / "work"
        current.mkdir()
        work.mkdir()
        lower = self._template(template) if template else self.path(self.revision)
        _call("umount", str(self.root))
        options = f"lowerdir={lower},upperdir={current},workdir={work}"
        _call("mount", "-t", "overlay", "-o", options, "overlay", str(self.root))

    def publish(self) -> None:
        if not self.scratch.exists():
            raise Failed(f"Repository {self.fqrn} is not in a transaction")
        if "full" in self.faults:
            raise Failed("failed to commit catalog: No space left on device")
        lower = self.scratch / "template"
        new = self._copied(lower if lower.exists() else self.path(self.revision), self.state / "new")
        include = (self.state / "include-xattrs").exists()
        sync_union(self.scratch / "current", self.root, new, include)
        self._close(new)

    def abort(self) -> None:
        if not self.scratch.exists():
            raise Failed(f"Repository {self.fqrn} is not in a transaction")
        self._close(None)

    def ingest(self, base: str, keep: bool, deletions: Sequence[str], catalog: bool) -> None:
        if self.scratch.exists():
            raise Failed(f"Repository {self.fqrn} is already in a transaction")
        if base in ("", "/"):
            raise Failed("Please set the base directory where to extract the tarball")
        new = self._copied(self.path(self.revision), self.state / "new")
        for path in deletions:
            shutil.rmtree(new / path)
        with tarfile.open(fileobj=sys.stdin.buffer, mode="r|", encoding="utf-8", errors="surrogateescape") as tar:
            try:
                ingest(tar, new / base, None if keep else (990, 990))
            except ValueError as error:
                shutil.rmtree(new)
                raise Failed(f"Synchronization failed: {error}") from error
        if catalog:
            (new / base / ".cvmfscatalog").touch(0o664)
        self._mount(new)

    def _template(self, text: str) -> Path:
        """A copy of a directory that the transaction begins with, in the metadata only."""
        source, target = text.split("=")
        lower = self._copied(self.path(self.revision), self.scratch / "template")
        if not (lower / source).is_dir() or (lower / target).exists() or not (lower / target).parent.is_dir():
            shutil.rmtree(self.scratch)
            raise Failed("cannot clone: check that the source is there, the target is not, and its parent is")
        self._copied(lower / source, lower / target)
        return lower

    def _close(self, new: Path | None) -> None:
        _call("umount", str(self.root))
        shutil.rmtree(self.scratch)
        if new is None:
            mount(self.path(self.revision), self.root)
        else:
            new.rename(self.path(self.revision + 1))
            mount(self.path(self.revision), self.root)

    def _mount(self, new: Path) -> None:
        _call("umount", str(self.root))
        new.rename(self.path(self.revision + 1))
        mount(self.path(self.revision), self.root)

    @staticmethod
    def _copied(source: Path, target: Path) -> Path:
        _call("cp", "-a", str(source), str(target))
        return target


def mount(revision: Path, root: Path) -> None:
    """Read-only, as clients see a repository; `user.revision` tells which it is, as theirs does."""
    xattrs.write(revision, "user.revision", revision.name.encode())
    _call("mount", "--bind", str(revision), str(root))
    _call("mount", "-o", "remount,bind,ro,nosuid,nodev", str(root))


def _call(*command: str) -> None:
    subprocess.run(command, check=True)


def run(state: Path, verb: str, arguments: list[str]) -> None:
    command = Command(state)
    with open(state / "calls", "a", encoding="utf-8") as log:
        log.write(" ".join([verb, *arguments]) + "\n")
    if f"kill-{verb}" in command.faults:
        os.kill(os.getppid(), signal.SIGKILL)
        raise Failed("killed")
    if verb in command.faults:
        raise Failed(f"{verb}: refused by the test")
    options, flags, deletions = _parse(arguments, command.fqrn)
    if verb == "transaction":
        command.transaction(float(options["-t"]) if "-t" in options else None, options.get("-T"))
    elif verb == "ingest":
        command.ingest(options.get("-b", ""), "-k" in flags, deletions, "-c" in flags)
    elif verb in ("list", "publish", "abort"):
        getattr(command, verb)()
    elif verb not in ("tag", "gc"):
        raise Failed(f"usage: unknown command {verb}")
    if f"kill-after-{verb}" in command.faults:
        os.kill(os.getppid(), signal.SIGKILL)


def _parse(arguments: list[str], fqrn: str) -> tuple[dict[str, str], list[str], list[str]]:
    """Options with a value, those without, and what is to be deleted."""
    options, flags, deletions = dict[str, str](), list[str](), list[str]()
    words = iter(arguments)
    for word in words:
        if word == "-d":
            deletions.append(next(words))
        elif word in ("-t", "-T", "-b", "-a", "-m", "-u", "-g"):
            options[word] = next(words)
        elif word.startswith("-"):
            flags.append(word)
        elif word != fqrn:
            raise Failed(f"The repository {word} does not exist")
    return options, flags, deletions


if __name__ == "__main__":
    try:
        run(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
    except Failed as failure:
        sys.exit(str(failure))
