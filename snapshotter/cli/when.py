"""`when` and `wait-for`: since when an image is there, and a pipeline's wait until it is."""

import time

import click

from cvmfsrepo.errors import Unavailable
from snapshotter.admin.values import ImageFacts
from snapshotter.cli import exits
from snapshotter.cli.apart import apart
from snapshotter.cli.options import node_options
from snapshotter.cli.output import Output, ago, moment
from snapshotter.config import Config

_STEP = 1.0
"""Seconds between two looks."""


@click.command()
@click.argument("reference", metavar="IMAGE")
@node_options
@apart
def when(config: Config, output: Output, reference: str) -> None:
    """Since when this node sees an image in a repository, and in which revision it came.

    Without a daemon and its index the repositories are asked, and only say that it is there.

    \b
    Exit status: 0 it is there; 3 it is not.
    \b
    Example:
      cvmfs-snapshotter when registry.example.org/atlas/athena:25
    """
    from snapshotter.admin.published import published

    with published(config) as repositories:
        found = repositories.find(reference)
    _answer(output, reference, found, "no repository of this node holds it")


@click.command("wait-for")
@click.argument("reference", metavar="IMAGE")
@click.option("--timeout", type=click.FloatRange(min=0), default=600.0, show_default=True, help="Seconds to wait.")
@node_options
@apart
def wait_for(config: Config, output: Output, reference: str, timeout: float) -> None:
    """Waits until a repository holds an image, as this node sees it.

    \b
    Exit status: 0 it is there; 3 it did not come in time.
    \b
    Example, in a pipeline that builds, publishes and runs:
      cvmfs-snapshotter wait-for registry.example.org/me/job:7 --timeout 1800 && submit
    """
    from snapshotter.admin.published import published

    end, found, problem = time.monotonic() + timeout, None, ""
    with published(config) as repositories:
        while True:
            try:
                found, problem = repositories.find(reference), ""
            except Unavailable as error:
                problem = f" ({error})"
            left = end - time.monotonic()
            if found or left <= 0:
                break
            time.sleep(min(_STEP, left))
    _answer(output, reference, found, f"no repository of this node holds it after {timeout:g} s{problem}")


def _answer(output: Output, reference: str, found: ImageFacts | None, problem: str) -> None:
    """JSON is the image, or null."""
    output.show(found, lambda: _print(output, found, f"image {reference!r}: {problem}"))
    if found is None:
        click.get_current_context().exit(exits.NO)


def _print(output: Output, found: ImageFacts | None, problem: str) -> None:
    if found is None:
        output.line(problem)
        return
    revision = f", in revision {found.first_revision}" if found.first_revision is not None else ""
    seen = f"first seen {moment(found.first_seen)}{revision}, {ago(found.first_seen)}"
    output.line(f"{found.reference} in {found.repository}: {seen if found.first_seen else 'there now'}")
    if found.problem:
        output.line(f"  but {found.problem}")
