"""The command `cvmfs-publisher`."""

from importlib.metadata import PackageNotFoundError, version

import click

from publisher.cli.collect import collect
from publisher.cli.image import image
from publisher.cli.listen import listen
from publisher.cli.remove import remove
from publisher.cli.shared import Group
from publisher.cli.status import status
from publisher.cli.verify import verify_command
from publisher.cli.watch import watch
from publisher.cli.wishlist import wishlist


def main() -> None:
    command(prog_name="cvmfs-publisher")


def _version() -> str:
    try:
        return version("cvmfs-snapshotter")
    except PackageNotFoundError:
        return "unknown (not installed)"


@click.group(cls=Group)
@click.version_option(_version(), prog_name="cvmfs-publisher")
def command() -> None:
    """Writes container images into the tree of an unpacked CVMFS repository."""


for _command in (image, remove, collect, wishlist, watch, listen, status, verify_command):
    command.add_command(_command)


if __name__ == "__main__":
    main()
