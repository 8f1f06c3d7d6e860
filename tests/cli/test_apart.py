"""A command's body in a process of its own: its status comes through, and nobody waits for what hangs in it."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import click
import pytest

from cvmfsrepo.errors import NotFound
from snapshotter.cli.apart import apart
from tests.mounting import standin

SECONDS = 30.0


@click.command()
@click.argument("what")
@click.argument("path", default="")
@apart
def trial(what: str, path: str) -> None:
    """Ends in each way that a command can."""
    click.echo("said")
    match what:
        case "exit":
            click.get_current_context().exit(3)
        case "refuse":
            raise NotFound("thing", "x", "is not there", "look elsewhere")
        case "usage":
            raise click.UsageError("not so")
        case "bug":
            raise ZeroDivisionError
        case "talk":
            while True:
                click.echo("more")
        case "hang":
            threading.Thread(target=os.listdir, args=(path,), daemon=True).start()
            time.sleep(0.5)


def ended(what: str, path: Path = Path()) -> subprocess.CompletedProcess[str]:
    program = "from tests.cli.test_apart import trial; trial()"
    command = [sys.executable, "-c", program, what, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)


@pytest.mark.parametrize(
    ("what", "status", "error"),
    [
        ("fine", 0, ""),
        ("exit", 3, ""),
        ("refuse", 1, "error: thing 'x': is not there; look elsewhere\n"),
        ("usage", 2, "Error: not so"),
        ("bug", 1, "ZeroDivisionError"),
    ],
)
def test_status_and_output_come_through(what: str, status: int, error: str) -> None:
    """As if there were one process; a bug shows where it is."""
    done = ended(what)
    assert (done.returncode, done.stdout) == (status, "said\n")
    assert error in done.stderr


def test_a_reader_who_has_read_enough() -> None:
    """As `head` has: the command ends, and says nothing of it."""
    program = f"{sys.executable} -c 'from tests.cli.test_apart import trial; trial()' talk"
    done = subprocess.run(
        f"{program} | head -n 1", shell=True, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert (done.stdout, done.stderr) == ("said\n", "")


@pytest.mark.root
@pytest.mark.fuse
def test_a_thread_that_hangs_in_a_mount_holds_nobody(tmp_path: Path) -> None:
    """Neither who waits for the process, nor who reads its output to the end."""
    (tmp_path / "source").mkdir()
    with standin(tmp_path / "source", tmp_path / "mount") as client:
        client.fault("stall", "/")
        began = time.monotonic()
        done = ended("hang", tmp_path / "mount")
        assert client.held() == 1
        assert time.monotonic() - began < 10
        client.clear()
    assert (done.returncode, done.stdout, done.stderr) == (0, "said\n", "")
