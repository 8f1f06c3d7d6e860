"""`serve`: the daemon."""

import logging
from pathlib import Path

import click

from cvmfsrepo.errors import NotFound
from snapshotter import config as configuration
from snapshotter.cli.options import configured
from snapshotter.config import Config
from snapshotter.log import configure, event


@click.command()
@click.option("--config", "config_path", type=click.Path(path_type=Path), default=configuration.DEFAULT_PATH,
              show_default=True, help="TOML file; defaults where it does not exist.")  # fmt: skip
@click.option("--root", help="Directory of the state.  [default: /var/lib/containerd-cvmfs-grpc]")
@click.option("--address", help="Unix socket to serve on.")
@click.option("--log-level", help="debug, info, warning or error.  [default: info]")
def serve(config_path: Path, root: str | None, address: str | None, log_level: str | None) -> None:
    """Serves containerd's snapshots API until SIGTERM.

    Options win over the configuration file, which is read again at SIGHUP.
    """
    from snapshotter import server  # grpc is slow to import, and --help need not wait for it

    config = configured(config_path, root, address, log_level)
    configure(config.log_level)
    had_file = config_path.exists()
    if not had_file:
        event(logging.getLogger(__name__), logging.INFO, "no configuration file, defaults hold", path=str(config_path))

    def read() -> Config:
        if had_file and not config_path.exists():
            raise NotFound("configuration file", str(config_path), "is gone")
        return configured(config_path, root, address, log_level)

    server.serve(config, read)
