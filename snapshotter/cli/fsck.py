"""`fsck`: what containerd, the records and the disk say of each other."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from cvmfsrepo.errors import ContractError, FailedPrecondition
from snapshotter.cli import exits
from snapshotter.cli.enginelook import engine_options
from snapshotter.cli.options import node_options
from snapshotter.cli.output import Output, counted
from snapshotter.config import Config

if TYPE_CHECKING:
    from snapshotter.admin.values import Snapshot
    from snapshotter.fsck import Difference
    from snapshotter.repair import Mended

_SETTLE = 3.0
"""Seconds between two looks: what only one of them sees was under way."""

_PATIENCE = 600.0
"""Seconds for mending: shims are computed from the repositories."""

_MOST_USERS = 6


class Report(msgspec.Struct, frozen=True):
    """What was looked at, what differs, and what --repair did. `problem` says why containerd's side is missing."""

    containerd: str
    version: str
    snapshotters: tuple[str, ...]
    snapshots: int | None
    records: int
    differences: "tuple[Difference, ...]"
    mended: "tuple[Mended, ...]" = ()
    problem: str = ""


@click.command()
@click.option("--repair", is_flag=True, help="Mend what is provably ours, and say what was done.")
@click.option("--older-than", type=click.FloatRange(min=0), default=60.0, show_default=True, metavar="SECONDS",
              help="Leftovers that are younger stay: containerd may be about to know them.")  # fmt: skip
@engine_options
@node_options
def fsck(config: Config, output: Output, containerd: Path, snapshotter: str, repair: bool, older_than: float) -> None:
    """Compares what containerd knows of our snapshots, the records, and the disk. Changes nothing without --repair.

    \b
    lost        containerd needs a snapshot that this node has no more
    disagrees   containerd has a snapshot on another parent than we have
    disk        a directory, a link or a shim is not as its record says
    leftover    a record that containerd does not know
    foreign     a record of a namespace that containerd does not have
    orphan      a directory of no record

    --repair makes links and shims again from the records, and removes leftovers and orphans: nothing that containerd
    refers to, that is mounted, or on which something stands. It never changes containerd's side.

    \b
    Exit status: 0 nothing differs; 3 something does (with --repair: still does); 1 it cannot be told.
    \b
    Example:
      cvmfs-snapshotter fsck --repair
    """
    asking = (config, containerd, snapshotter, older_than)
    report = _settled(*asking)
    if repair and any(one.mendable for one in report.differences):
        mended = _mend(config, containerd, report)
        report = msgspec.structs.replace(_settled(*asking), mended=mended)
    output.show(report, lambda: _print(output, report))
    if report.differences:
        click.get_current_context().exit(exits.NO)
    if report.problem:
        click.get_current_context().exit(exits.ERROR)


def _settled(config: Config, socket: Path, name: str, older_than: float) -> Report:
    """What two looks agree on, where the first one sees something."""
    report = _look(config, socket, name, older_than)
    if not report.differences:
        return report
    time.sleep(_SETTLE)
    seen = {(one.kind, one.subject) for one in report.differences}
    again = _look(config, socket, name, older_than)
    both = tuple(one for one in again.differences if (one.kind, one.subject) in seen)
    return msgspec.structs.replace(again, differences=both)


def _look(config: Config, socket: Path, name: str, older_than: float) -> Report:
    """Our records are read before containerd is asked: what is new in between is no leftover."""
    from snapshotter.admin.asking import asked
    from snapshotter.engine import look
    from snapshotter.fsck import compare

    now = time.time_ns()
    with asked(config) as node:
        records, disk = list(node.walk()), node.findings()
    view, problem = None, ""
    try:
        view = look(socket, config.address, name)
        problem = view.problem
    except ContractError as error:
        problem = str(error)
    found = compare(view, records, disk, config.root, now, older_than)
    return Report(
        str(socket), view.version if view else "", view.snapshotters if view else (),
        len(view.snapshots) if view and view.snapshots is not None else None, len(records), found, problem=problem,
    )  # fmt: skip


def _mend(config: Config, socket: Path, report: Report) -> "tuple[Mended, ...]":
    from snapshotter.admin.address import admin_address
    from snapshotter.admin.client import AdminClient, is_served
    from snapshotter.fsck import Kind
    from snapshotter.repair import Mended

    if not is_served(admin_address(config)):
        raise FailedPrecondition("daemon", str(admin_address(config)), "does not run", "start it: it does the mending")
    mended: list[Mended] = []
    wanted = [one for one in report.differences if one.mendable]
    with AdminClient(admin_address(config), _PATIENCE) as node:
        if any(one.kind is not Kind.LEFTOVER for one in wanted):
            mended += (Mended(one.path, one.problem, done=not one.remedy) for one in node.repair())
        left = {one.subject for one in wanted if one.kind is Kind.LEFTOVER}
        records = {record.name: record for record in node.walk() if record.name in left}
    order = [records[one.subject] for one in wanted if one.subject in records]
    return (*mended, *_remove(config, socket, order)) if order else tuple(mended)


def _remove(config: Config, socket: Path, leftovers: "Sequence[Snapshot]") -> "tuple[Mended, ...]":
    from snapshotter.client import Client
    from snapshotter.engine import shares_processes
    from snapshotter.mounted import numbers_in_use
    from snapshotter.repair import Mended, remove_leftovers

    if not shares_processes(socket):
        why = "is left alone: what containerd mounted cannot be seen from here; run fsck on the node itself"
        return tuple(Mended(one.name, why, done=False) for one in leftovers)
    with Client(config.address) as client:
        return remove_leftovers(client.remove, leftovers, numbers_in_use(Path(config.root, "snapshots")))


def _print(output: Output, report: Report) -> None:
    known = "" if report.snapshots is None else f": {counted(report.snapshots, 'snapshot')} of "
    engine = (
        f"{report.containerd}, {report.version or 'not asked'}{known}{', '.join(report.snapshotters) if known else ''}"
    )
    output.facts([("containerd", engine), ("records", str(report.records))])
    if report.problem:
        output.line(f"containerd's side is MISSING: {report.problem}")
    for one in report.mended:
        output.line(f"{'mended' if one.done else 'NOT MENDED'}: {one.path}: {one.what}")
    output.line(counted(len(report.differences), "difference") if report.differences else "nothing differs")
    for difference in report.differences:
        _print_difference(output, difference)


def _print_difference(output: Output, found: "Difference") -> None:
    output.line()
    output.line(f"{found.kind}: {found.subject}")
    output.line(f"  {found.problem}")
    for user in found.users[:_MOST_USERS]:
        output.line(f"  used by {user}")
    if len(found.users) > _MOST_USERS:
        output.line(f"  and by {len(found.users) - _MOST_USERS} others")
    output.line(f"  what to do: {found.remedy}")
