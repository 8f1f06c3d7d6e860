"""What the commands share: their errors as one line and a status, and which repository they write to."""

import os
from pathlib import Path
from typing import IO, Any

import click

from cvmfsrepo.errors import ContractError
from publisher.transactions.contract import Target
from publisher.transactions.directory import DirectoryTarget

repository_option = click.option(
    "--repository", required=True, type=click.Path(path_type=Path), help="The repository's root directory."
)


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


def chosen_target(repository: Path) -> Target:
    """The repository that a command was told to write to."""
    return DirectoryTarget.at(repository)


def must_be_root() -> None:
    """Failure for anybody else."""
    if os.geteuid() != 0:
        raise Failure("layers hold owners, devices and attributes that only root can write: run with sudo")
