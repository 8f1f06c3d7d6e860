"""`status`: how the node is doing."""

import time
from itertools import chain

import click

from snapshotter.admin.values import DiskUse, RepositoryStatus, Served, SnapshotCounts, Status
from snapshotter.cli import exits
from snapshotter.cli.apart import apart
from snapshotter.cli.options import node_options
from snapshotter.cli.output import Output, ago, counted, duration, moment, size
from snapshotter.config import Config


@click.command()
@click.option("--measure", is_flag=True, help="Measure what running containers have written; takes time.")
@node_options
@apart
def status(config: Config, output: Output, measure: bool) -> None:
    """How the daemon, its repositories and its snapshots are doing.

    Answered at once, also while every repository hangs. Without a daemon it says so, and what the disk and a look at
    the repositories tell.

    \b
    Exit status: 0 a daemon runs; 1 none does, or it cannot be asked.
    \b
    Example:
      cvmfs-snapshotter status --json | jq '.repositories[] | {name, state, revision}'
    """
    from snapshotter.admin import asking

    found = asking.status(config, measure)
    output.show(found, lambda: _print(output, found))
    if not found.running:
        click.get_current_context().exit(exits.ERROR)


def _print(output: Output, found: Status) -> None:
    running = f"running: process {found.pid}, up {duration(time.time_ns() - found.started)}"
    known = [("daemon", running if found.running else "NOT RUNNING"), ("version", found.version)]
    problem = [("problem", found.problem)] if found.problem else []
    output.facts([*known, *problem, ("admin socket", found.address), ("root", found.root)])
    output.line()
    output.table(
        ("REPOSITORY", "STATE", "SINCE", ">REVISION", "INDEX", ">IMAGES", ">LAYERS", ">MALFORMED", "ROOT"),
        map(_repository, found.repositories),
    )
    for repository in found.repositories:
        if repository.detail:
            output.line(f"{repository.name}: {repository.detail}")
    output.line()
    output.facts(
        chain(
            _snapshots(found.snapshots) if found.snapshots else (),
            _disk(found.disk) if found.disk else (),
            _served(found.served) if found.served else (),
            [("database copy", f"{moment(found.backup)} ({ago(found.backup)})" if found.backup else "none yet")],
        )
    )


def _repository(found: RepositoryStatus) -> tuple[str, ...]:
    index = found.index
    since, revision = ago(found.since) if found.since else "-", "-" if found.revision is None else str(found.revision)
    if index is None:
        return found.name, found.state, since, revision, "none", "-", "-", "-", found.root
    numbers = (str(index.images), str(index.layers), str(index.malformed))
    return found.name, found.state, since, revision, _index(found), *numbers, found.root


def _index(found: RepositoryStatus) -> str:
    index = found.index
    if index is None:
        return "none"
    if index.problem:
        return f"stuck: {index.problem}"
    if index.running:
        return "reading"
    if not index.complete:
        return "incomplete"
    return f"of revision {index.revision}" if index.revision is not None else f"read {ago(index.updated)}"


def _snapshots(found: SnapshotCounts) -> list[tuple[str, str]]:
    return [
        ("snapshots", str(found.active + found.views + found.remote + found.local)),
        ("  from a repository", str(found.remote)),
        ("  local", str(found.local)),
        ("  active", str(found.active)),
        ("  views", str(found.views)),
        ("  made after a miss", str(found.missed)),
    ]


def _disk(found: DiskUse) -> list[tuple[str, str]]:
    active = "not measured (--measure)" if found.active is None else size(found.active)
    return [
        ("disk", f"{size(found.free)} of {size(found.capacity)} free, {found.free_inodes} inodes free"),
        ("  local layers", size(found.committed)),
        ("  active snapshots", active),
        ("  shims", str(found.shims)),
    ]


def _served(found: Served) -> list[tuple[str, str]]:
    hits = ", ".join(f"{count} from {name}" for name, count in sorted(found.hits.items())) or "none"
    misses = ", ".join(f"{count} {reason}" for reason, count in sorted(found.misses.items())) or "none"
    unknown = f", and {counted(found.unknown, 'layer')} of unknown size" if found.unknown else ""
    return [
        ("layers since start", ""),
        ("  served", hits),
        ("  missed", misses),
        ("  not downloaded", f"{size(found.bytes_not_downloaded)}{unknown}"),
    ]
