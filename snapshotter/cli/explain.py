"""`explain`: what a snapshot or a container stands on, and why."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cvmfsrepo.errors import NotFound, Unavailable
from snapshotter.admin.values import Explanation, MountPlan, Shown
from snapshotter.cli.options import node_options
from snapshotter.cli.output import Output, moment, size
from snapshotter.cli.snapshots import origin
from snapshotter.config import Config

if TYPE_CHECKING:
    from snapshotter.admin.client import AdminClient
    from snapshotter.admin.facts import Facts


@click.command()
@click.argument("key", metavar="KEY|CONTAINER")
@click.option("--containerd", "socket", type=click.Path(path_type=Path, readable=False), envvar="CONTAINERD_ADDRESS",
              show_envvar=True, help="containerd's socket; the usual places are looked at.")  # fmt: skip
@node_options
def explain(config: Config, output: Output, key: str, socket: Path | None) -> None:
    """What a snapshot or a container stands on: each layer, where it comes from and why, and how it is mounted.

    KEY is a snapshot's name as `snapshots` prints it, or what follows its last slash, as in `ctr snapshots list`, or
    the beginning of that. CONTAINER is a container's id or the beginning of one.

    \b
    Example:
      cvmfs-snapshotter explain 4f6c0a2b9d1e
    """
    from snapshotter.admin.asking import asked

    with asked(config) as node:
        found = _explained(node, config, key, socket)
    output.show(found, lambda: _print(output, found))


def _explained(node: "AdminClient | Facts", config: Config, key: str, socket: Path | None) -> Explanation:
    """A snapshot; where none has the name, a container's."""
    from snapshotter.cli.containers import resolve_container

    try:
        return node.explain(key)
    except NotFound as error:
        no_snapshot = error
    try:
        name = resolve_container(config, key, socket)
    except (NotFound, Unavailable) as no_container:
        remedy = "`cvmfs-snapshotter snapshots` lists all snapshots"
        raise NotFound("snapshot or container", key, f"is neither: {no_snapshot}; {no_container}", remedy) from None
    return node.explain(name)


def _print(output: Output, found: Explanation) -> None:
    top = found.chain[0].snapshot
    output.line(f"{top.kind} snapshot {top.name}, made {moment(top.created)}")
    if top.miss:
        output.line(f"its layer was wanted from a repository and missed: {top.miss}")
    output.line(
        f"it cannot be mounted NOW: {found.unreadable}" if found.unreadable else "all its layers can be read now"
    )
    output.line()
    output.table(("LAYER", "FROM", ">SIZE", "ID", "LOST IN PUBLICATION", "NAME"), map(_row, found.chain))
    for shown in found.chain:
        if shown.snapshot.repository:
            output.line()
            _print_layer(output, shown)
    output.line()
    output.line("mounts of a view of it:" if found.of_view else "its mounts:")
    for mount in found.mounts:
        _print_mount(output, mount)


def _row(shown: Shown) -> tuple[str, ...]:
    one = shown.snapshot
    own = "-" if one.repository or one.kind != "committed" else size(one.size)
    return one.layer or one.kind, origin(one), own, str(one.id), _losses(shown), one.name


def _losses(shown: Shown) -> str:
    if not shown.snapshot.repository:
        return "-"
    if not shown.losses_known:
        return "not known"
    return ", ".join(shown.losses) or "nothing"


def _print_layer(output: Output, shown: Shown) -> None:
    one = shown.snapshot
    output.line(f"layer {one.layer}:")
    output.line(f"  in {one.repository} at {shown.link}")
    output.line(f"  shim above it {one.hide}" + (f", below it {one.white}" if one.white else ", none below it"))


def _print_mount(output: Output, mount: MountPlan) -> None:
    output.line(f"  type {mount.type}, source {mount.source}")
    for option in mount.options:
        name, equals, value = option.partition("=")
        if name != "lowerdir":
            output.line(f"    {option}")
            continue
        output.line(f"    {name}{equals}   (topmost first, joined by colons)")
        for lower in re.split(r"(?<!\\):", value):
            output.line(f"      {lower}")
