"""`cvmfs-publisher status`: how a wish list and a queue stand."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from publisher.cli.shared import chosen_target, repository_option
from publisher.cli.tables import age, table
from publisher.listening.queue import read_jobs
from publisher.wishes.state import DEFAULT, StateDirectory
from publisher.wishes.status import Line, walk_queue, walk_status

_PATH = click.Path(path_type=Path)


@click.command()
@repository_option
@click.option("--state", default=DEFAULT, show_default=True, type=_PATH, help="What is known.")
@click.option(
    "--queue", type=click.Path(path_type=Path, exists=True), help="Of `listen`; alone, only the queue is shown."
)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def status(state: Path, queue: Path | None, as_json: bool, **where: Any) -> None:
    """Say what is wanted, present, stale, expired, failed and queued.

    Asks no registry. The status is 0 only if everything that is wanted is present and nothing is queued.
    """
    lines, is_known = list[Line](), True
    if not queue or where["repository"] or where["cvmfs"]:
        known = StateDirectory(state, [], only_read=True)
        lines += walk_status(known, chosen_target(**where).layout, time.time())
        for path in known.damaged:
            click.echo(f"{path}: is damaged, and the next pass puts it aside", err=True)
        is_known = known.wanted() is not None
    if queue:
        lines += walk_queue(read_jobs(queue))
    click.echo(json.dumps(msgspec.to_builtins(lines)) if as_json else _text(lines))
    if not is_known or not all(line.is_well for line in lines):
        raise SystemExit(1)


def _text(lines: Sequence[Line]) -> str:
    now = time.time()
    rows = [(line.word, line.name, age(now - line.since) if line.since else "", _why(line, now)) for line in lines]
    counts = Counter(line.word for line in lines)
    end = ", ".join(f"{count} {word}" for word, count in counts.items()) or "nothing is known"
    return "\n".join([*([table(("", "IMAGE", "FOR", "WHY"), rows, right="FOR")] if rows else []), end])


def _why(line: Line, now: float) -> str:
    if not line.retry_at:
        return line.reason
    return f"{line.reason}; tried again {f'in {age(line.retry_at - now)}' if line.retry_at > now else 'now'}"
