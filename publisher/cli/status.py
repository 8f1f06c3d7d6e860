"""`cvmfs-publisher status`: how a wish list stands."""

import json
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from publisher.cli.shared import chosen_target, repository_option
from publisher.wishes.state import DEFAULT, StateDirectory
from publisher.wishes.status import Line, walk_status


@click.command()
@repository_option
@click.option("--state", default=DEFAULT, show_default=True, type=click.Path(path_type=Path), help="What is known.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def status(state: Path, as_json: bool, **where: Any) -> None:
    """Say what is wanted, present, stale and failed.

    Asks no registry. The status is 0 only if everything that is wanted is present.
    """
    known = StateDirectory.at(state)
    lines = list(walk_status(known, chosen_target(**where).layout))
    for path in known.damaged:
        click.echo(f"{path}: was damaged and is put aside", err=True)
    click.echo(json.dumps(msgspec.to_builtins(lines)) if as_json else "\n".join(map(_text, lines)))
    if known.wanted() is None or any(line.word not in ("present", "stale") for line in lines):
        raise SystemExit(1)


def _text(line: Line) -> str:
    age = f" for {(time.time() - line.since) / 3600:.1f} h" if line.since else ""
    return f"{line.word}{age}  {line.name}" + (f"\n    {line.reason}" * bool(line.reason))
