"""`cvmfs-snapshotter`: the command line."""

import logging
import sys
from importlib.metadata import version
from pathlib import Path

import click
import msgspec

from cvmfsrepo.errors import ContractError
from snapshotter import config as configuration
from snapshotter.log import configure, event


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("cvmfs-snapshotter"), prog_name="cvmfs-snapshotter")
def cli() -> None:
    """Runs container images straight from an unpacked CernVM-FS repository."""


@cli.command()
@click.option("--config", "config_path", type=click.Path(path_type=Path), default=configuration.DEFAULT_PATH,
              show_default=True, help="TOML file; defaults where it does not exist.")  # fmt: skip
@click.option("--root", help="Directory of the state.  [default: /var/lib/containerd-cvmfs-grpc]")
@click.option("--address", help="Unix socket to serve on.")
@click.option("--log-level", help="debug, info, warning or error.  [default: info]")
def serve(config_path: Path, root: str | None, address: str | None, log_level: str | None) -> None:
    """Serves containerd's snapshots API until SIGTERM. Options win over the configuration file."""
    from snapshotter import server  # grpc is slow to import, and --help need not wait for it

    given = {"root": _absolute(root), "address": _absolute(address), "log_level": log_level}
    config = configuration.load(config_path)
    config = msgspec.structs.replace(config, **{key: value for key, value in given.items() if value is not None})
    configuration.check(config)
    configure(config.log_level)
    if not config_path.exists():
        event(logging.getLogger(__name__), logging.INFO, "no configuration file, defaults hold", path=str(config_path))
    server.serve(config)


def _absolute(path: str | None) -> str | None:
    return str(Path(path).absolute()) if path else path


def main() -> None:
    """Runs a command; a refusal is one line on stderr and exit status 1."""
    try:
        cli()
    except ContractError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
