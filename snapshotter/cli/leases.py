"""`leases`: which layers this node uses, for those who publish."""

import os
import socket
import tempfile
import time
from pathlib import Path

import click

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import FailedPrecondition
from cvmfsrepo.leases import lease_of
from snapshotter.cli.options import node_options
from snapshotter.cli.output import Output, counted
from snapshotter.config import Config


@click.command()
@click.option(
    "--output", "target", type=click.Path(path_type=Path), metavar="FILE",
    help="Write the lease there, whole or not at all, in place of what was there.",
)  # fmt: skip
@click.option("--node", "name", help="What this node is called, if not by its host name.")
@node_options
def leases(config: Config, output: Output, target: Path | None, name: str | None) -> None:
    """The layers of repositories that this node uses: a lease, under which `cvmfs-publisher collect` keeps them.

    All layers count that a snapshot shows, whether or not a container runs on it. Without a daemon its records on the
    disk tell.

    \b
    Example, in a timer, to a directory that the publisher reads:
      cvmfs-snapshotter leases --output /srv/leases/$(hostname).json
    """
    from snapshotter.admin.asking import asked

    with asked(config) as node:
        digests = frozenset(Digest.parse(found.layer) for found in node.walk() if found.layer)
    lease = lease_of(name or socket.gethostname(), int(time.time()), digests)
    if target:
        _replace(target.absolute(), lease.encode())

    def print_it() -> None:
        output.line(f"{lease.node} uses {counted(len(digests), 'layer')}" + (f": {target}" if target else ""))
        if not target:
            for text in lease.digest_texts:
                output.line(text)

    output.show(lease, print_it)


def _replace(target: Path, content: bytes) -> None:
    """By rename, readable by all: a publisher on another machine reads it at any moment."""
    try:
        descriptor, staged = tempfile.mkstemp(dir=target.parent, prefix=".new-")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                os.fchmod(stream.fileno(), 0o644)
                stream.flush()
                os.fsync(stream.fileno())
            os.rename(staged, target)
        except BaseException:
            Path(staged).unlink(missing_ok=True)
            raise
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
        raise FailedPrecondition("lease", str(target), problem, "name a file in a directory that is there") from None
