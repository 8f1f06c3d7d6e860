"""`config`: what other programs have to be told of this one."""

import os
import sys
from pathlib import Path

import click

from cvmfsrepo.errors import ContractError
from snapshotter.cli.options import configured
from snapshotter.config import DEFAULT_PATH


@click.group()
def config() -> None:
    """Prints what other programs have to be told of this one."""


@config.command()
@click.option("--containerd-version", "wanted", metavar="VERSION",
              help="1.6, 1.7, 2.0, 2.1 or any release.  [default: what the containerd found here says]")  # fmt: skip
@click.option("--containerd", "engine", metavar="PROGRAM", help="containerd's program, if another than the one found.")
@click.option("--config", "config_path", type=click.Path(path_type=Path), default=DEFAULT_PATH, show_default=True,
              help="TOML file of the daemon; defaults where it does not exist.")  # fmt: skip
@click.option("--address", help="The daemon's socket, if not the configuration's.")
@click.option("--root", help="Directory of the state, if not the configuration's.")
@click.option("--platform", help="Of the images to unpack.  [default: that of this machine, such as linux/amd64]")
def containerd(
    wanted: str | None, engine: str | None, config_path: Path, address: str | None, root: str | None,
    platform: str | None,
) -> None:  # fmt: skip
    """What containerd has to be told, as TOML on standard output; where it goes, on standard error.

    \b
    Example, for containerd 2.1 and newer with imports = ["/etc/containerd/conf.d/*.toml"]:
      cvmfs-snapshotter config containerd > /etc/containerd/conf.d/cvmfs-snapshotter.toml
      systemctl restart containerd
    """
    from snapshotter.engineconfig import generator, program
    from snapshotter.engineconfig.distributions import detect
    from snapshotter.engineconfig.versions import Version

    node, distribution = configured(config_path, root, address), detect(os.path.exists)
    if wanted:
        release = Version.parse(wanted)
    else:
        found = program.find_program([engine] if engine else distribution.programs)
        if not found:
            click.echo(f"error: no program {engine or 'containerd'} was found; give --containerd-version", err=True)
            sys.exit(1)
        try:
            release = program.ask_version(found)
        except ContractError as error:
            click.echo(f"error: {error}; give --containerd-version", err=True)
            sys.exit(1)
    platform = platform or generator.platform_of(os.uname().machine)
    click.echo(generator.containerd_config(release, node.address, node.root, platform), nl=False)
    for line in generator.instructions(release, distribution):
        click.echo(f"# {line}", err=True)
