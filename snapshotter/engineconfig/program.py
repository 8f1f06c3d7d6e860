"""Other programs of the node, run and asked: containerd, cvmfs_config, systemctl. What they do changes nothing."""

import os
import shutil
import subprocess
from collections.abc import Iterable

from cvmfsrepo.errors import FailedPrecondition
from snapshotter.engineconfig.versions import Version

_PATIENCE = 15.0
_SAID = 600


def find_program(candidates: Iterable[str]) -> str:
    """The first that can be run, as a path; empty where none can."""
    return next((found for name in candidates if (found := shutil.which(name))), "")


def ask_version(containerd: str) -> Version:
    """What the program says of itself. A running containerd may be older, until it is restarted."""
    return Version.parse(said_by([containerd, "--version"]))


def dump_config(containerd: str, config: str) -> str:
    """The configuration that containerd makes of a file, its defaults and its imports."""
    return said_by([containerd, "--config", config, "config", "dump"])


def said_by(command: list[str]) -> str:
    """Standard output of a command; FailedPrecondition where it cannot be run, fails or takes too long."""
    what = " ".join(command)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_PATIENCE, stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise FailedPrecondition("command", what, f"did not end within {_PATIENCE:g} s") from None
    except OSError as error:
        raise FailedPrecondition("command", what, f"cannot be run ({error.strerror})") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it says nothing"]
        raise FailedPrecondition("command", what, f"exit status {done.returncode}: {lines[-1][-_SAID:]}")
    return done.stdout
