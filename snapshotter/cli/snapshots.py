"""`snapshots`: the records."""

import click

from snapshotter.admin.values import Snapshot
from snapshotter.cli.options import node_options
from snapshotter.cli.output import Output, moment, short, size
from snapshotter.config import Config


@click.command()
@click.option("--filter", "filters", multiple=True, metavar="FILTER",
              help="containerd's filter grammar; given several times, one has to match.")  # fmt: skip
@node_options
def snapshots(config: Config, output: Output, filters: tuple[str, ...]) -> None:
    """All snapshots, or those that a filter matches.

    Fields of a filter: name, parent, kind (active, view, committed) and labels.NAME. Operators: ==, !=, ~= (a regular
    expression); a field alone means that it is there. A comma means "and".

    \b
    Examples:
      cvmfs-snapshotter snapshots --filter kind==active
      cvmfs-snapshotter snapshots --filter 'labels."containerd.io/snapshot/cvmfs.miss"'
    """
    from snapshotter.admin.asking import asked

    with asked(config) as node:
        found = list(node.walk(filters))
    output.show(found, lambda: output.table(("NAME", "KIND", "CREATED", ">SIZE", "LAYER", "FROM"), map(_row, found)))


def _row(found: Snapshot) -> tuple[str, ...]:
    own = "-" if found.repository or found.kind != "committed" else size(found.size)
    return found.name, found.kind, moment(found.created), own, short(found.layer), origin(found)


def origin(found: Snapshot) -> str:
    """Where a snapshot's content comes from, in a few words."""
    if found.repository:
        revision = f", revision {found.revision}" if found.revision is not None else ""
        return f"{found.repository}{revision}"
    return f"missed: {found.miss}" if found.miss else "local"
