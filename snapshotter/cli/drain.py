"""`drain`: how to leave."""

import contextlib
import os
from pathlib import Path

import click

from cvmfsrepo.errors import ContractError
from snapshotter.cli import exits
from snapshotter.cli.enginelook import engine_options
from snapshotter.cli.options import node_options
from snapshotter.cli.output import Output, counted
from snapshotter.config import Config
from snapshotter.drain import ConfigLine, Draining, find_lines, steps, users
from snapshotter.engineview import Container

_NAME = "cvmfs-snapshotter"


@click.command()
@click.option("--containerd-config", type=click.Path(path_type=Path), default="/etc/containerd/config.toml",
              show_default=True, help="containerd's configuration, for the lines to take out.")  # fmt: skip
@engine_options
@node_options
def drain(config: Config, output: Output, containerd: Path, snapshotter: str, containerd_config: Path) -> None:
    """Who uses this snapshotter, and how to leave without breaking the node. Changes nothing.

    An image that was unpacked here cannot be started once the snapshotter is gone. So it is the last to go: this says
    what has to go before, and in which order.

    \b
    Exit status: 0 nothing uses it, it may be stopped; 3 something does; 1 it cannot be told.
    \b
    Example:
      cvmfs-snapshotter drain && systemctl disable --now cvmfs-snapshotter
    """
    from snapshotter.engine import look

    view = look(containerd, config.address, snapshotter, expected=snapshotter or _NAME)
    records, problem = _records(config)
    lines = _config_lines(containerd_config, view.snapshotters, config.address)
    found = users(view, records, problem, lines)
    output.show(found, lambda: _print(output, found, config))
    if found.is_used:
        click.get_current_context().exit(exits.NO)
    if found.unknown:
        click.get_current_context().exit(exits.ERROR)


def _records(config: Config) -> tuple[int | None, str]:
    from snapshotter.admin.asking import asked

    try:
        with asked(config) as node:
            return sum(1 for _ in node.walk()), ""
    except ContractError as error:
        return None, str(error)


def _config_lines(path: Path, names: tuple[str, ...], address: str) -> list[ConfigLine]:
    """Of the file and of those beside it that it may include; what cannot be read has no lines."""
    found = []
    for one in (path, *sorted((path.parent / "conf.d").glob("*.toml"))):
        with contextlib.suppress(OSError):
            found += find_lines(os.fspath(one), one.read_text(errors="replace"), names, address)
    return found


def _print(output: Output, found: Draining, config: Config) -> None:
    if found.is_used:
        kinds = ((found.containers, "container"), (found.images, "image"), (found.snapshots, "other snapshot"))
        held = [counted(len(of), what) for of, what in kinds if of]
        left = f"{counted(found.records or 0, 'record')} that containerd does not know: see `cvmfs-snapshotter fsck`"
        said = ", ".join(held) or left
        output.line(f"IN USE: {said}")
    else:
        output.line("nothing uses it" if not found.unknown else "nothing that could be asked for uses it")
    for problem in found.unknown:
        output.line(f"not known: {problem}")
    tables = (
        ("containers:", ("NAMESPACE", "CONTAINER", "POD", "IMAGE"), list(map(_container, found.containers))),
        ("images:", ("NAMESPACE", "IMAGE"), [(image.namespace, image.name) for image in found.images]),
        ("other snapshots:", ("SNAPSHOT",), [(name,) for name in found.snapshots]),
    )
    for title, header, rows in tables:
        if rows:
            output.line()
            output.line(title)
            output.table(header, rows)
    output.line()
    output.line("to leave, in this order:" if found.is_used else "what is left to do:")
    for number, (what, commands) in enumerate(steps(found, config.root), 1):
        output.line(f"{number}. {what}")
        for command in commands:
            output.line(f"     {command}")


def _container(found: Container) -> tuple[str, ...]:
    return found.namespace, found.id, found.labels.get("io.kubernetes.pod.name", "-"), found.image
