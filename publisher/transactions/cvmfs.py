"""A CVMFS repository as a target, on the machine that publishes it; the one file of the publisher that runs a command.

Arguments go to `cvmfs_server` one by one and through no shell of ours. But it hands some on through its own, so nothing
of an image is among them: only the repository's name, numbers, and directories named by digests. A tar comes on stdin.
"""

import logging
import math
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from cvmfsrepo.errors import ContractError, FailedPrecondition, InvalidArgument, ResourceExhausted, Unavailable
from cvmfsrepo.layout import Layout
from publisher.transactions.contract import Finish, Transaction
from publisher.transactions.directory import refusal
from publisher.transactions.lock import Stopped, held, never
from publisher.transactions.union import CvmfsTransaction, Template, Warn

SETTINGS = Path("/etc/cvmfs/repositories.d")
SCRATCH = Path("/var/spool/cvmfs-publisher")

_FQRN = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
_PLAIN = re.compile(r"[A-Za-z0-9.][A-Za-z0-9./:@_+-]*")
_LAST_WORDS = 500


@dataclass(frozen=True, slots=True)
class CvmfsServer:
    """The command for one repository. Everything else than success is an error with the command's last words."""

    fqrn: str
    command: str = "cvmfs_server"

    def is_open(self) -> bool:
        """Whether anybody has a transaction open."""
        for line in self._run("list").splitlines():
            name, _, facts = line.strip().partition(" ")
            if name == self.fqrn:
                return "in transaction" in facts
        remedy = "run this on the machine that publishes it, or make it with cvmfs_server mkfs"
        raise FailedPrecondition("repository", self.fqrn, "is not among those that cvmfs_server lists", remedy)

    def open(self, wait: float, template: Template | None) -> None:
        """Waits for others for up to `wait` seconds."""
        options = ["-t", str(math.ceil(wait))] if wait > 0 else []  # 0 would be for ever
        if template:
            options += ["-T", "=".join(map(self._plain, template))]
        self._run("transaction", *options, self.fqrn)

    def publish(self) -> None:
        self._run("publish", self.fqrn)

    def abort(self) -> None:
        self._run("abort", "-f", self.fqrn)

    def ingest(self, tar: Path, base: str) -> None:
        """With the owners of the tar; without -k all would be the publishing user's."""
        with open(tar, "rb") as stream:
            self._run("ingest", "-k", "-t", "-", "-b", self._plain(base), self.fqrn, stdin=stream)

    def _run(self, *arguments: str, stdin: IO[bytes] | int = subprocess.DEVNULL) -> str:
        """From the root directory, for nobody may stand in the repository; in a session of its own, for an interrupt
        from the terminal is ours to answer, with an abort."""
        try:
            done = subprocess.run(
                [self.command, *arguments], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                cwd="/", start_new_session=True, check=False, encoding="utf-8", errors="replace",
            )  # fmt: skip
        except OSError as error:
            remedy = "install CernVM-FS's server package, or say where the command is"
            raise FailedPrecondition("command", self.command, f"cannot be run: {error.strerror}", remedy) from error
        if done.returncode != 0:
            raise self._failure(arguments[0], done.returncode, done.stdout)
        return done.stdout

    def _failure(self, verb: str, status: int, output: str) -> ContractError:
        words = " ".join(output.split())[-_LAST_WORDS:] or "no word"
        problem = f"cvmfs_server {verb} failed with status {status}: {words}"
        if "in a transaction" in words or "in transaction" in words:
            remedy = f"wait until it has ended; if nobody uses it, end it with cvmfs_server abort -f {self.fqrn}"
            return Unavailable("repository", self.fqrn, problem, remedy)
        if "No space left" in words:
            return ResourceExhausted("repository", self.fqrn, problem, "free some space in CVMFS's spool and storage")
        remedy = {
            "abort": f"the transaction is still open: look at it, and end it with cvmfs_server abort -f {self.fqrn}",
            "list": "look at the installation of cvmfs_server",
        }.get(verb, f"look at cvmfs_server check {self.fqrn}, and run this again")
        return Unavailable("repository", self.fqrn, problem, remedy)

    def _plain(self, path: str) -> str:
        """A path that neither an option parser nor a shell can read as something else."""
        if _PLAIN.fullmatch(path):
            return path
        raise InvalidArgument("path", path, "cannot be handed to cvmfs_server", "use a plainer name")


def _warn(message: str) -> None:
    logging.getLogger("cvmfs-publisher").warning(message)


@dataclass(frozen=True, slots=True)
class CvmfsTarget:
    """The repository mounted at `layout.root`. What is published is staged in `state`, which is on a local disk."""

    layout: Layout
    state: Path
    server: CvmfsServer
    settings: Path
    warn: Warn = _warn
    finish: Finish | None = None

    @classmethod
    def of(
        cls,
        fqrn: str,
        scratch: Path = SCRATCH,
        *,
        root: Path | None = None,
        command: str = "cvmfs_server",
        settings: Path = SETTINGS,
        warn: Warn = _warn,
        finish: Finish | None = None,
    ) -> Self:
        """Checks the names. `root` is where the repository is mounted, `settings` where those of repositories are;
        `finish` is made in each publication."""
        if not _FQRN.fullmatch(fqrn):
            raise InvalidArgument("repository", fqrn, "is not the name of a CVMFS repository", "it is like a host name")
        root = root or Path("/cvmfs") / fqrn
        if scratch.absolute().is_relative_to(root):
            raise InvalidArgument("scratch directory", str(scratch), "lies in the repository", "use a local disk")
        return cls(Layout(root), scratch.absolute() / fqrn, CvmfsServer(fqrn, command), settings / fqrn, warn, finish)

    @contextmanager
    def begin(self, wait: float = 0, stopped: Stopped = never) -> Iterator[Transaction]:
        """FailedPrecondition where the machine does not publish this repository."""
        try:
            self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
            with held(self.state / "lock", str(self.layout.root), wait, stopped):
                self._look()
                transaction = CvmfsTransaction(self.layout, self.state, self.server, wait, self.warn, self.finish)
                transaction.recover()
                try:
                    yield transaction
                finally:
                    with suppress(OSError):  # what stays is cleared by the next one
                        transaction.clear()
        except OSError as error:
            raise refusal(Layout(self.state), error) from error

    def _look(self) -> None:
        """Whether the repository can be published to, and what its settings would lose."""
        self.server.is_open()
        if not self.layout.root.is_dir():
            remedy = f"mount it: cvmfs_server mount {self.server.fqrn}"
            raise FailedPrecondition("repository", str(self.layout.root), "is not there", remedy)
        server, client = (read_settings(self.settings / name) for name in ("server.conf", "client.conf"))
        if server and server.get("CVMFS_INCLUDE_XATTRS") != "true":
            self.warn(
                f"repository {self.server.fqrn!r} loses extended attributes, file capabilities among them: "
                f"set CVMFS_INCLUDE_XATTRS=true in {self.settings / 'server.conf'}"
            )
        if client.get("CVMFS_CLAIM_OWNERSHIP", "no") in ("yes", "true", "on", "1"):
            self.warn(
                f"repository {self.server.fqrn!r} is mounted with owners replaced: "
                f"set CVMFS_CLAIM_OWNERSHIP=no in {self.settings / 'client.conf'}"
            )


def read_settings(path: Path) -> dict[str, str]:
    """The plain assignments of a file that shells read; nothing where it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.strip().removeprefix("export ").partition("=") for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs if not key.startswith("#")}
