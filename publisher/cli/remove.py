"""`cvmfs-publisher remove`: withdraws names."""

import time
from pathlib import Path
from typing import Any

import click
import msgspec

from cvmfsrepo.oci import Reference
from publisher.cli.shared import Finite, chosen_target, must_be_root, repository_option
from publisher.cli.tables import size, table_of
from publisher.collecting.expiry import name_of
from publisher.collecting.memory import MemoryFile
from publisher.collecting.remove import Removal
from publisher.collecting.remove import remove as withdraw
from publisher.wishes.state import DEFAULT


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@repository_option
@click.option("--state", default=DEFAULT, show_default=True, type=click.Path(path_type=Path), help="What is known.")
@click.option("--wait", type=Finite(0), default=0.0, help="Seconds to wait for another publisher.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def remove(images: tuple[str, ...], state: Path, wait: float, as_json: bool, **where: Any) -> None:
    """Withdraw images by their names.

    Readers do not find them any more. Their content stays until `collect` removes what nothing leads to. Where one of
    the images is not there, nothing is withdrawn.
    """
    must_be_root()
    target = chosen_target(**where)
    names = [name_of(Reference.parse(image)) for image in images]
    removal = withdraw(target, names, MemoryFile.at(state, target.layout.root), time.time(), wait)
    click.echo(msgspec.json.encode(removal).decode() if as_json else _text(removal))


def _text(removal: Removal) -> str:
    lines = [f"withdrawn  {name}" for name in removal.names]
    waiting = sum(thing.fate == "waits" for thing in removal.things)
    end = f"{waiting} things with {size(removal.bytes)} are left to collect"
    return "\n".join([*lines, *([table_of(removal.things)] if removal.things else []), end])
