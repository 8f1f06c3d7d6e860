"""The options of the commands that ask containerd, too."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from snapshotter.cli.containers import engine_socket

_CONTAINERD = click.option(
    "--containerd", type=click.Path(path_type=Path, readable=False), envvar="CONTAINERD_ADDRESS", show_envvar=True,
    help="containerd's socket; the usual places are looked at.",
)  # fmt: skip
_SNAPSHOTTER = click.option(
    "--snapshotter", default="", metavar="NAME",
    help="Our name in containerd's configuration; found by the daemon's address.",
)  # fmt: skip


def engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command --containerd and --snapshotter; it is called with the socket, and "" where no name is given."""

    @wraps(command)
    def with_socket(*arguments: Any, containerd: Path | None, snapshotter: str, **own: Any) -> None:
        command(*arguments, containerd=containerd or engine_socket(), snapshotter=snapshotter, **own)

    return _CONTAINERD(_SNAPSHOTTER(with_socket))
