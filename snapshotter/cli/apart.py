"""Runs a command's body in a process of its own, for it may touch a repository that hangs.

A process of which one thread hangs in a FUSE file system cannot end: whoever started it waits, though the answer was
given long ago. So the process that a shell waits for touches no repository: it ends with the status that the other one
reports, which is left behind and ends when its repository answers.
"""

import contextlib
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from types import FrameType
from typing import NoReturn, ParamSpec

import click

from cvmfsrepo.errors import ContractError
from snapshotter.cli import exits

P = ParamSpec("P")

_INTERRUPTED = 130


def apart(body: Callable[P, None]) -> Callable[P, None]:
    """Makes a command's function run in a process of its own. It is to be called while no other thread runs."""

    @wraps(body)
    def started(*args: P.args, **kwargs: P.kwargs) -> None:
        """Starts the other process, and ends with the status that it reports."""
        sys.stdout.flush()
        sys.stderr.flush()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _run(lambda: body(*args, **kwargs), writing)
        os.close(writing)
        click.get_current_context().exit(_status(child, reading))

    return started


def _run(body: Callable[[], None], report: int) -> NoReturn:
    """Reports the status and ends at once: nothing of the interpreter's end may wait for a thread. What is left behind
    holds neither the output nor a terminal, for somebody may read to its end."""
    status = exits.ERROR
    try:
        signal.signal(signal.SIGTERM, _end)
        status = _status_of(body)
    finally:
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
            sys.stderr.flush()
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(nothing, standard)
        os.write(report, bytes([status]))
        os._exit(status)


def _status_of(body: Callable[[], None]) -> int:
    try:
        body()
    except ContractError as error:
        click.echo(f"error: {error}", err=True)
        return exits.ERROR
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _INTERRUPTED
    except BrokenPipeError:
        if _has_reader():
            raise
        return exits.ERROR
    return exits.FINE


def _has_reader() -> bool:
    """Whether somebody reads the output still; `head` has read enough after some lines."""
    poll = select.poll()
    poll.register(1, 0)
    return not any(events & select.POLLERR for _, events in poll.poll(0))


def _status(child: int, reading: int) -> int:
    """What the child reports; a request to end is passed on, so that it takes away what it made."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        os.kill(child, signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        said = os.read(reading, 1)
    except KeyboardInterrupt:  # the child has had it too
        said = os.read(reading, 1) or bytes([_INTERRUPTED])
    finally:
        signal.signal(signal.SIGTERM, before)
        os.close(reading)
    return said[0] if said else exits.ERROR


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
