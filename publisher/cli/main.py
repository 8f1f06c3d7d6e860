"""The command `cvmfs-publisher`. Each command stands in a file of its own and is imported when it is called."""

import click

from publisher.cli.shared import Group

_COMMANDS = ("image", "remove", "collect", "wishlist", "watch", "listen", "status", "verify")


class _Commands(Group):
    """The commands, by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports one command's file. The statements stand here one by one so that imports can be read."""
        match cmd_name:
            case "image":
                from publisher.cli.image import image as found
            case "remove":
                from publisher.cli.remove import remove as found
            case "collect":
                from publisher.cli.collect import collect as found
            case "wishlist":
                from publisher.cli.wishlist import wishlist as found
            case "watch":
                from publisher.cli.watch import watch as found
            case "listen":
                from publisher.cli.listen import listen as found
            case "status":
                from publisher.cli.status import status as found
            case "verify":
                from publisher.cli.verify import verify_command as found
            case _:
                return None
        return found


def main() -> None:
    command(prog_name="cvmfs-publisher")


@click.group(cls=_Commands)
@click.version_option(package_name="cvmfs-snapshotter", prog_name="cvmfs-publisher")
def command() -> None:
    """Writes container images into the tree of an unpacked CVMFS repository."""


if __name__ == "__main__":
    main()
