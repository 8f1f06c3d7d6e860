"""`backup` and `restore`: a copy of the database, out and in."""

import os
import shutil
import time
from pathlib import Path

import click

from cvmfsrepo.errors import FailedPrecondition
from snapshotter.admin.values import Backup
from snapshotter.cli.options import node_options
from snapshotter.cli.output import Output, ago, counted, moment, size
from snapshotter.config import Config


@click.command()
@click.argument("target", required=False, type=click.Path(path_type=Path))
@node_options
def backup(config: Config, output: Output, target: Path | None) -> None:
    """Copies the records to TARGET, a file; while the daemon runs, too.

    Without TARGET the copy that the daemon keeps beside its database is renewed. The copy holds which snapshots there
    are and what they stand on, not what containers wrote.

    \b
    Example:
      cvmfs-snapshotter backup /var/backups/cvmfs-snapshotter.sqlite
    """
    from snapshotter.admin.asking import asked

    with asked(config) as node:
        made = node.back_up()
    if target:
        made = _copied(made, target.absolute())
    output.show(made, lambda: output.line(f"{made.path}: {size(made.size)}, of {moment(made.written)}"))


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@node_options
def restore(config: Config, output: Output, file: Path) -> None:
    """Puts a copy of the records in place of the records, while the daemon is stopped.

    The copy is checked first, and the database that was there is kept beside it. Snapshots that were made since the
    copy are not removed: the next start says which.

    \b
    Example:
      systemctl stop cvmfs-snapshotter
      cvmfs-snapshotter restore /var/backups/cvmfs-snapshotter.sqlite
      systemctl start cvmfs-snapshotter
    """
    from snapshotter.restore import restore as put_back

    done = put_back(Path(config.root), file.absolute())

    def print_it() -> None:
        output.line(f"restored {counted(done.snapshots, 'snapshot')} from {done.path}")
        output.line(f"the copy is of {moment(done.written)}, {ago(done.written)}: what was made since is not in it")
        output.line(f"the database that was there: {done.kept or 'there was none'}")
        output.line("start the daemon now; it says which directories are newer than the copy")

    output.show(done, print_it)


def _copied(made: Backup, target: Path) -> Backup:
    """The copy at another place, 0600; staged and renamed. It is made here and not by the daemon, whose service may
    write nowhere but in its own directories."""
    if target.is_dir():
        raise FailedPrecondition("target", str(target), "is a directory", "give the name of a file")
    staged = target.with_name(f"{target.name}.{os.getpid()}.new")
    try:
        os.close(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        shutil.copyfile(made.path, staged)
        os.utime(staged, ns=(time.time_ns(), made.written))
        os.rename(staged, target)
    except OSError as error:
        raise FailedPrecondition("target", str(target), f"cannot be written ({error.strerror})") from None
    finally:
        staged.unlink(missing_ok=True)
    return Backup(str(target), made.written, made.size)
