"""`cvmfs-publisher collect`: removes what is no longer wanted."""

import time
from pathlib import Path
from typing import Any

import click
import msgspec

from publisher.cli.podman import RepositoryStore, say
from publisher.cli.shared import (
    Finite,
    check_places,
    chosen_target,
    metrics_file_option,
    must_be_root,
    repository_option,
)
from publisher.cli.tables import size, table_of
from publisher.collecting.collect import Report, Terms, rehearse
from publisher.collecting.collect import collect as run
from publisher.collecting.expiry import Rule, parse_wished
from publisher.collecting.leasing import leased_digests
from publisher.collecting.memory import MemoryFile
from publisher.collecting.reachable import Leases
from publisher.metrics import Metrics
from publisher.wishes.expiring import read_expiring
from publisher.wishes.state import DEFAULT

_PATH = click.Path(path_type=Path)
_ABOVE = 0.0
"""Days that a lease is at least old when it expires."""


@click.command()
@repository_option
@click.option("--state", default=DEFAULT, show_default=True, type=_PATH, help="What earlier runs found unreachable.")
@click.option("--dry-run", is_flag=True, help="Only say what would go: nothing is written anywhere.")
@click.option(
    "--grace", type=Finite(0), default=7.0, show_default=True, metavar="DAYS",
    help="How long nothing has to lead to a thing before it goes.",
)  # fmt: skip
@click.option("--leases", multiple=True, metavar="FILE|DIR|URL", help="What nodes use, which stays. May be repeated.")
@click.option(
    "--lease-days", type=Finite(_ABOVE, min_open=True), default=14.0, show_default=True, metavar="DAYS",
    help="How long a lease protects.",
)  # fmt: skip
@click.option(
    "--expire", "expiry", multiple=True, metavar="PATTERN=DAYS", help="Withdraw such images. May be repeated."
)
@click.option("--wished", type=_PATH, help="References that never expire, one a line.")
@click.option(
    "--recipe-state", "recipe_states", multiple=True, type=click.Path(path_type=Path, exists=True),
    help="--state of a recipe with expire-days, if not the same. May be repeated.",
)  # fmt: skip
@click.option("--despite-store", is_flag=True, help="Let go also layers that only podmanStore lists.")
@click.option("--at-once", type=click.IntRange(1), default=1000, show_default=True, help="Things a publication.")
@click.option("--wait", type=Finite(0), default=0.0, help="Seconds to wait for another publisher.")
@metrics_file_option
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def collect(
    state: Path, dry_run: bool, grace: float, leases: tuple[str, ...], lease_days: float, expiry: tuple[str, ...],
    wished: Path | None, recipe_states: tuple[Path, ...], despite_store: bool, at_once: int, wait: float,
    metrics_file: Path | None, as_json: bool, **where: Any,
) -> None:  # fmt: skip
    """Remove what no published name leads to.

    Something goes only if a run has noted it as unreachable --grace days before. Anything that cannot be read stops it,
    with nothing removed.
    """
    must_be_root()
    check_places(metrics_file)
    target = chosen_target(**where, store=RepositoryStore(say, prune=despite_store))

    def leased() -> Leases:
        return leased_digests(leases, time.time(), lease_days, _warn)

    expiring = read_expiring([state, *recipe_states])
    terms = Terms(
        memory=MemoryFile.at(state, target.layout.root),
        grace=grace,
        at_once=at_once,
        wait=wait,
        with_store=not despite_store,
        rules=(*map(Rule.parse, expiry), *expiring.rules),
        pushed=expiring.pushed,
        wished=parse_wished(wished.read_text("utf-8", "replace")) if wished else (),
        leases=leased if leases else None,
    )
    metrics = Metrics()
    with metrics.written(None if dry_run else metrics_file):
        report = rehearse(target.layout, terms) if dry_run else run(target, terms)
        metrics.collected(thing for thing in report.things if thing.fate == "goes")
        metrics.succeeded()
    click.echo(msgspec.json.encode(report).decode() if as_json else _text(report))


def _warn(message: str) -> None:
    click.echo(f"warning: {' '.join(message.split())}", err=True)


def _text(report: Report) -> str:
    lines = [table_of(report.things)] if report.things else []
    lines += [f"unknown, left alone: {path}" for path in report.unknown]
    counts = {fate: sum(thing.fate == fate for thing in report.things) for fate in ("goes", "waits")}
    went = f"{counts['goes']} things with {size(report.bytes('goes'))} {'would go' if report.dry_run else 'went'}"
    waiting = f"{counts['waits']} with {size(report.bytes('waits'))} wait for their grace period"
    kept = ", ".join(f"{number} {kind}s" for kind, number in report.kept.items())
    return "\n".join([*lines, f"{went}; {waiting}", f"kept: {kept or 'nothing'}"])
