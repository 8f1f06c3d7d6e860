"""Runs containerd's snapshotter test suite against a command that serves, and says how each of its tests ended."""

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.engines.process import EngineError
from tests.peers import build

TESTS = (
    "Basic", "StatActive", "StatComitted", "TransitivityTest", "PreareViewFailingtest", "Update", "Remove", "Walk",
    "LayerFileupdate", "RemoveDirectoryInLowerLayer", "Chown", "DirectoryPermissionOnCommit",
    "RemoveIntermediateSnapshot", "DeletedFilesInChildSnapshot", "MoveFileFromLowerLayer", "Rename", "ViewReadonly",
    "StatInWalk", "CloseTwice", "RootPermission", "128LayersMount",
)  # fmt: skip
"""The suite of containerd 1.6, its spelling kept."""

_SWITCH = re.compile(r"=== (?:RUN|PAUSE|CONT|NAME)\s+TestSuite/(\S+)")
_END = re.compile(r"\s*--- (PASS|FAIL|SKIP): TestSuite/(\S+) ")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one test of the suite ended, and what it said."""

    result: Literal["PASS", "FAIL", "SKIP"]
    output: str


def run_suite(
    command: Sequence[str], temporary: Path, user_namespace: bool = False, timeout: float = 200
) -> dict[str, Outcome]:
    """The outcomes by test. `command` serves on $ADDR with its state in $ROOT (the shell replaces them); `temporary`
    has a short name, for the sockets are below it."""
    line = " ".join(word if word.startswith("$") else shlex.quote(word) for word in command)
    environment = {**os.environ, "SNAPSHOTTER_CMD": line, "TMPDIR": str(temporary)}
    if user_namespace:
        environment["SNAPSHOTTER_USERNS"] = "1"
    # In a mount namespace of its own, with which the mounts of a failed test end.
    apart = ["unshare", "--mount", "--propagation", "private"]
    program = [*apart, str(build.program(build.SUITE)), "-test.root", "-test.v"]
    process = subprocess.Popen(
        program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the servers too
        said, _ = process.communicate()
        raise EngineError(f"containerd's suite: no end within {timeout} s: {said[-3000:]}") from None
    outcomes = parse_output(said)
    if not outcomes:
        raise EngineError(f"containerd's suite: ended with {process.returncode} and no test: {said[-3000:]}")
    return outcomes


def parse_output(said: str) -> dict[str, Outcome]:
    """The outcomes in the text that a Go test program prints with -test.v, where tests that run side by side
    interrupt each other."""
    lines: dict[str, list[str]] = {}
    outcomes: dict[str, Outcome] = {}
    current = ""
    for line in said.splitlines():
        if switch := _SWITCH.match(line):
            current = switch[1]
        elif end := _END.match(line):
            current = end[2]
            outcomes[current] = Outcome(end[1], "")  # type: ignore[arg-type]
        else:
            lines.setdefault(current, []).append(line)
    return {name: Outcome(found.result, "\n".join(lines.get(name, []))) for name, found in outcomes.items()}
