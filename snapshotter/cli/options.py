"""The options that every command has: which node it is about, and how it answers."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate

import click
import msgspec

from snapshotter import config as configuration
from snapshotter.cli.output import Output
from snapshotter.config import Config

_CONFIG = click.option(
    "--config", "config_path", type=click.Path(path_type=Path), default=configuration.DEFAULT_PATH, show_default=True,
    help="TOML file of the daemon; defaults where it does not exist.",
)  # fmt: skip
_ROOT = click.option("--root", help="Directory of the state, if not the configuration's.")
_ADDRESS = click.option("--address", help="The daemon's socket, if not the configuration's.")
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")

registries_option = click.option(
    "--registries", type=click.Path(path_type=Path), metavar="FILE",
    help="How registries are asked: mirrors, authorities, proxies.  "
    "[default: /etc/cvmfs-publisher/publisher.toml, if it is there]",
)  # fmt: skip


def node_options(command: Callable[Concatenate[Config, Output, ...], None]) -> Callable[..., None]:
    """Gives a command --config, --root, --address and --json; it is called with the configuration, in which the options
    have won over the file, with its output, and with its own arguments by name."""

    @wraps(command)
    def with_options(config_path: Path, root: str | None, address: str | None, as_json: bool, **own: Any) -> None:
        command(configured(config_path, root=root, address=address), Output(as_json), **own)

    return _CONFIG(_ROOT(_ADDRESS(_JSON(with_options))))


def configured(path: Path, root: str | None = None, address: str | None = None, log_level: str | None = None) -> Config:
    """The configuration of a file, checked; what is given wins over it."""
    given = {"root": _absolute(root), "address": _absolute(address), "log_level": log_level}
    config = configuration.load(path)
    config = msgspec.structs.replace(config, **{key: value for key, value in given.items() if value is not None})
    configuration.check(config)
    return config


def _absolute(path: str | None) -> str | None:
    return str(Path(path).absolute()) if path else path
