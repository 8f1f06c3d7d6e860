"""`cvmfs-snapshotter`: the command line. Each command stands in a file of its own and is imported when it is called."""

import sys
from importlib.metadata import version

import click

from cvmfsrepo.errors import ContractError
from snapshotter.cli import exits

NAME = "cvmfs-snapshotter"

COMMANDS = {
    "serve": "Serves containerd's snapshots API until SIGTERM.",
    "status": "How the daemon, its repositories and its snapshots are doing.",
    "doctor": "What is wrong with this node, and what to do about it.",
    "config": "Prints what other programs have to be told of this one.",
    "image": "Will an image run here without a download?",
    "verify": "Compares what this node would show of an image with the image.",
    "prefetch": "Brings an image into the cache before somebody needs it.",
    "images": "The images that the repositories hold.",
    "layer": "A layer: who holds it, since when, and what uses it.",
    "snapshots": "All snapshots, or those that a filter matches.",
    "explain": "What a snapshot or a container stands on, and why.",
    "fsck": "Compares what containerd knows, the records, and the disk.",
    "drain": "Who uses this snapshotter, and how to leave.",
    "when": "Since when this node sees an image in a repository.",
    "wait-for": "Waits until a repository holds an image.",
    "backup": "Copies the records to a file.",
    "restore": "Puts a copy of the records in place of the records.",
    "leases": "The layers that this node uses, for those who publish.",
    "node-labels": "Labels this node in Kubernetes with its repositories' health.",
    "completion": "Prints what makes a shell complete the commands.",
}
"""Commands in the order of the help, each with its line there: the help imports none of them."""


class Commands(click.Group):
    """The commands, by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports one command's file. The statements stand here one by one so that imports can be read."""
        match cmd_name:
            case "serve":
                from snapshotter.cli.serve import serve as found
            case "status":
                from snapshotter.cli.status import status as found
            case "doctor":
                from snapshotter.cli.doctor import doctor as found
            case "config":
                from snapshotter.cli.config_command import config as found
            case "image":
                from snapshotter.cli.image import image as found
            case "verify":
                from snapshotter.cli.verify import verify as found
            case "prefetch":
                from snapshotter.cli.prefetch import prefetch as found
            case "images":
                from snapshotter.cli.images import images as found
            case "layer":
                from snapshotter.cli.images import layer as found
            case "snapshots":
                from snapshotter.cli.snapshots import snapshots as found
            case "explain":
                from snapshotter.cli.explain import explain as found
            case "fsck":
                from snapshotter.cli.fsck import fsck as found
            case "drain":
                from snapshotter.cli.drain import drain as found
            case "when":
                from snapshotter.cli.when import when as found
            case "wait-for":
                from snapshotter.cli.when import wait_for as found
            case "backup":
                from snapshotter.cli.backup import backup as found
            case "restore":
                from snapshotter.cli.backup import restore as found
            case "leases":
                from snapshotter.cli.leases import leases as found
            case "node-labels":
                from snapshotter.cli.node_labels import node_labels as found
            case "completion":
                from snapshotter.cli.completion import completion as found
            case _:
                return None
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("cvmfs-snapshotter"), prog_name=NAME)
def cli() -> None:
    """Runs container images straight from an unpacked CernVM-FS repository.

    \b
    Exit status of every command: 0 yes, done or fine; 1 it cannot be told;
    2 the command line is not understood; 3 no.
    """


def main() -> None:
    """Runs a command; a refusal is one line on stderr and exit status 1."""
    try:
        cli(prog_name=NAME)
    except (ContractError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(exits.ERROR)


if __name__ == "__main__":
    main()
