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


def _tell_version(ctx: click.Context, param: click.Parameter, is_asked: bool) -> None:
    if is_asked and not ctx.resilient_parsing:
        from importlib.metadata import PackageNotFoundError, version  # takes as long as many a command's start

        try:
            found = version("cvmfs-snapshotter")
        except PackageNotFoundError:
            found = "unknown (not installed)"
        click.echo(f"cvmfs-publisher, version {found}")
        ctx.exit()


@click.group(cls=_Commands)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_tell_version,
    help="Show the version and exit.",
)  # fmt: skip
def command() -> None:
    """Writes container images into the tree of an unpacked CVMFS repository."""


if __name__ == "__main__":
    main()
