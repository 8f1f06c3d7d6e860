"""What the commands share: their errors as one line and a status, and which repository they write to."""

import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import IO, Any, TypeVar

import click

from cvmfsrepo.errors import ContractError, FailedPrecondition
from cvmfsrepo.layout import Layout
from cvmfsrepo.web import served_pages
from publisher.cli.podman import RepositoryStore, say
from publisher.metrics import Metrics
from publisher.registry.settings import DEFAULT as SETTINGS
from publisher.telling.notifications import NotificationEndpoint, NotificationFile
from publisher.telling.teller import NOBODY, Teller
from publisher.transactions.contract import Target
from publisher.transactions.cvmfs import SCRATCH, CvmfsTarget
from publisher.transactions.directory import DirectoryTarget

_Command = TypeVar("_Command", bound=Callable[..., Any])
_PATH = click.Path(path_type=Path)
_WHERE = (
    click.option("--repository", type=_PATH, help="The root of a repository that is a plain directory."),
    click.option("--cvmfs", metavar="FQRN", help="The CVMFS repository, on the machine that publishes it."),
    click.option(
        "--scratch", type=_PATH, default=SCRATCH, show_default=True,
        help="With --cvmfs: where layers are unpacked, on a local disk.",
    ),
    click.option("--cvmfs-root", type=_PATH, hidden=True, envvar="CVMFS_PUBLISHER_ROOT"),
    click.option("--cvmfs-server", default="cvmfs_server", hidden=True, envvar="CVMFS_PUBLISHER_SERVER"),
)  # fmt: skip


class Finite(click.FloatRange):
    """A number in a range; `nan` is in every one for click, and `inf` can neither be waited for nor counted to."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


def repository_option(command: _Command) -> _Command:
    """The options that say where to publish to. The command takes them as `**where`, for `chosen_target`."""
    return reduce(lambda decorated, option: option(decorated), reversed(_WHERE), command)


notify_option = click.option(
    "--notify", metavar="FILE|URL", help="Tell what happens as JSON lines, in DUCC's words, to a file or an address."
)

metrics_file_option = click.option(
    "--metrics-file", type=_PATH, metavar="FILE", help="Write metrics for node_exporter's textfile collector."
)
metrics_address_option = click.option(
    "--metrics-address", default="", metavar="HOST:PORT", help="Serve /metrics and /healthz there."
)


def check_places(*files: Path | None) -> None:
    """FailedPrecondition, before anything is done, where a file could not be written at the end."""
    for file in files:
        if file and file.is_dir():
            raise FailedPrecondition("file", str(file), "is a directory", "name a file in it")
        if file and not file.parent.is_dir():
            raise FailedPrecondition("file", str(file), "is in no directory", "make that first")


def served_metrics(address: str, metrics: Metrics) -> AbstractContextManager[object]:
    """Serves the pages for the block, if an address says where."""
    return served_pages(address, metrics.pages()) if address else nullcontext()


together_option = click.option(
    "--together", type=click.IntRange(1, 100), default=1, show_default=True, help="Images a publication."
)
registries_option = click.option(
    "--registries", type=_PATH, metavar="FILE",
    help=f"How registries are asked: mirrors, authorities, proxies. [default: {SETTINGS}, if it is there]",
)  # fmt: skip


def chosen_teller(notify: str | None) -> Teller:
    """Who is to be told; nobody where no option says so."""
    if notify is None:
        return NOBODY
    return NotificationEndpoint(notify) if "://" in notify else NotificationFile(Path(notify))


class Failure(click.ClickException):
    """One line on stderr and exit status 1."""

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"error: {' '.join(self.message.split())}", err=True, file=file)


class Group(click.Group):
    """Turns the project's errors into the message and status of a command."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ContractError as error:
            raise Failure(str(error)) from error
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise Failure(f"{where}{error.strerror or error}") from error


def chosen_target(
    repository: Path | None, cvmfs: str | None, scratch: Path, cvmfs_root: Path | None, cvmfs_server: str,
    otherwise: str | None = None, store: RepositoryStore | None = None,
) -> Target:  # fmt: skip
    """The repository that a command was told to write to, or `otherwise` the CVMFS repository of this name, with its
    `store` for podman: the default keeps one of ours up to date. UsageError where that is none, or two."""
    store = store or RepositoryStore(say)
    if repository is None and cvmfs is None:
        cvmfs = otherwise
    if (repository is None) == (cvmfs is None):
        raise click.UsageError("give either --repository DIR or --cvmfs FQRN")
    if repository is not None:
        return DirectoryTarget(Layout(repository), finish=store)
    target = CvmfsTarget.of(cvmfs or "", scratch, root=cvmfs_root, command=cvmfs_server, warn=_warn)
    return replace(target, finish=replace(store, memory=target.state))


def _warn(message: str) -> None:
    click.echo(f"warning: {' '.join(message.split())}", err=True)


def must_be_root() -> None:
    """Failure for anybody else."""
    if os.geteuid() != 0:
        raise Failure("layers hold owners, devices and attributes that only root can write: run with sudo")
