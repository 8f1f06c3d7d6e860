"""`completion`: what a shell needs to complete our commands."""

import click
from click.shell_completion import get_completion_class

NAME = "cvmfs-snapshotter"
VARIABLE = "_CVMFS_SNAPSHOTTER_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Prints what makes a shell complete the commands and their options.

    \b
    Examples:
      cvmfs-snapshotter completion bash > /etc/bash_completion.d/cvmfs-snapshotter
      cvmfs-snapshotter completion zsh > "${fpath[1]}/_cvmfs-snapshotter"
      cvmfs-snapshotter completion fish > ~/.config/fish/completions/cvmfs-snapshotter.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None, shell
    click.echo(kind(context.find_root().command, {}, NAME, VARIABLE).source(), nl=False)
