"""Kills a node with SIGKILL at every step that it takes, and looks at what the next start makes of it.

    python -m tests.snapshotter.crashing DIRECTORY STORY

A story is a list of calls. A child process tells it from the start of the node on, with the functions of `os` and of
SQLite counted that change the disk, and kills itself at the k-th of them; the next child starts the node on what is
left, checks it and tells the story to its end; then k grows by one, until a child lives to the end. Children are forked
from a process that has imported everything, so a kill takes hundredths of a second. The result is JSON.
"""

import builtins
import contextlib
import functools
import io
import itertools
import json
import os
import shutil
import signal
import sqlite3
import stat
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from snapshotter.config import Config
from snapshotter.server import opened
from snapshotter.snapshotter import Snapshotter
from tests.snapshotter.layers import NAME
from tests.snapshotter.stories import STORIES, Story

_COUNTED = (
    *("mkdir", "rename", "replace", "symlink", "mknod", "rmdir", "unlink", "remove", "link"),
    *("chmod", "chown", "utime", "fsync", "ftruncate", "pwrite"),
)  # fmt: skip
MOST_KILLS = 2000
State = dict[str, Any]


@dataclass(slots=True)
class Result:
    """How a child ended: the calls that it was answered and the state after each, or what went wrong."""

    killed: bool
    states: list[State]
    problem: str


class Counter:
    """Counts steps, of all threads, and kills the process at one of them."""

    def __init__(self, last: int | None) -> None:
        self._last, self._steps = last, itertools.count(1)

    def step(self) -> None:
        if next(self._steps) == self._last:
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        """Replaces the functions, in this process only."""
        counter = self

        class Connection(sqlite3.Connection):
            def execute(self, *arguments: Any) -> sqlite3.Cursor:
                counter.step()
                return super().execute(*arguments)

            def executescript(self, script: str) -> sqlite3.Cursor:
                counter.step()
                return super().executescript(script)

            def backup(self, *arguments: Any, **keywords: Any) -> None:
                counter.step()
                super().backup(*arguments, **keywords)

        for name in _COUNTED:
            setattr(os, name, self._counted(getattr(os, name)))
        os.open = self._counted(os.open, lambda path, flags, *_, **__: bool(flags & os.O_CREAT))
        builtins.open = io.open = self._counted(io.open, lambda file, mode="r", *_, **__: mode[0] in "wax")
        sqlite3.connect = functools.partial(sqlite3.connect, factory=Connection)  # type: ignore[assignment]

    def _counted(self, call: Callable[..., Any], counts: Callable[..., bool] = lambda *_, **__: True) -> Any:
        @functools.wraps(call)
        def counted(*arguments: Any, **keywords: Any) -> Any:
            if counts(*arguments, **keywords):
                self.step()
            return call(*arguments, **keywords)

        return counted


class Crashes:
    """Tells one story again and again below a directory; `failures` says which kill left something wrong."""

    def __init__(self, base: Path, story: Story) -> None:
        self._base, self._story = base, story
        self._config = Config(
            root=str(base / "root"), repository=NAME, absolute_mountpoint=str(base / "repository"), deadline=20
        )
        self.kills = 0
        self.failures: list[str] = []

    def run(self) -> None:
        """A whole story for the states that it goes through; then one with a kill at each step."""
        self._story.publish(self._base / "repository")
        template = self._base / "template"
        there = msgspec.structs.replace(self._config, root=str(template))
        if problem := in_child(lambda _: self._story.prepare_root(template, there)).problem:
            self.failures.append(f"before the story: {problem}")
            return
        self._fresh()
        whole = in_child(lambda write: self._tell(write, 0))
        if whole.problem:
            self.failures.append(f"without a kill: {whole.problem}")
            return
        for kill in range(1, MOST_KILLS):
            self._fresh()
            killed = in_child(lambda write, kill=kill: self._tell(write, 0, kill))  # type: ignore[misc]
            if not killed.killed:
                self.failures += [f"step {kill}: {killed.problem}"] if killed.problem else []
                return
            self.kills += 1
            again = in_child(lambda write, kill=kill: self._tell(write, 0, kill % 40 + 5, idle=True))  # type: ignore[misc]
            self.kills += again.killed
            answered = max(0, len(killed.states) - 1)
            healed = in_child(lambda write, answered=answered: self._heal(write, answered, whole.states))  # type: ignore[misc]
            if healed.problem or again.problem:
                told = self._story.calls[answered][0] if killed.states else "start"
                self.failures.append(f"step {kill}, in {told}: {again.problem}{healed.problem}")

    def _fresh(self) -> None:
        root, template = self._base / "root", self._base / "template"
        shutil.rmtree(root, ignore_errors=True)
        if template.exists():
            shutil.copytree(template, root, symlinks=True, copy_function=copied)

    def _tell(self, write: Callable[[State], None], start: int, kill: int | None = None, idle: bool = False) -> None:
        """Starts the node and makes the calls, saying the state after each; `idle` only starts it and stops it."""
        if kill is not None:
            Counter(kill).install()
        with opened(self._config) as verbs:
            write(self._state(verbs))
            for _, call in [] if idle else self._story.calls[start:]:
                call(verbs)
                write(self._state(verbs))

    def _heal(self, write: Callable[[State], None], answered: int, states: list[State]) -> None:
        """What a start finds is the state before or after the call that failed, and the story can be told on."""
        with opened(self._config) as verbs:
            found = self._state(verbs)
            wanted = states[answered : answered + 2]
            assert found in wanted, f"state {found}, not one of {wanted}"
            assert_whole(Path(self._config.root), verbs)
            for at, (_, call) in enumerate(self._story.calls[answered:]):
                with contextlib.suppress(*self._story.repeated) if at == 0 else contextlib.nullcontext():
                    call(verbs)
            assert self._state(verbs) == states[-1], f"state {self._state(verbs)} at the end, not {states[-1]}"
            verbs.cleanup()
            assert_whole(Path(self._config.root), verbs)
            self._story.check(Path(self._config.root), verbs)

    def _state(self, verbs: Snapshotter) -> State:
        return {info.name: [info.kind.label, info.parent, dict(info.labels)] for info in verbs.walk()}


def copied(source: str, target: str) -> str:
    """Also of a whiteout, which has nothing to read."""
    status = os.lstat(source)
    if stat.S_ISCHR(status.st_mode):
        os.mknod(target, status.st_mode)
        return target
    return shutil.copy2(source, target)


def assert_whole(root: Path, verbs: Snapshotter) -> None:
    """Every record has its directory or links, every link leads somewhere, nothing else is there but what is kept."""
    infos = list(verbs.walk())
    kept = {path.parent.name for path in root.glob("snapshots/*/kept")}
    directories = {path.name for path in (root / "snapshots").iterdir()} - kept
    assert len(directories) == len(infos), f"directories {sorted(directories)}, records {[i.name for i in infos]}"
    for name in directories:
        assert name.isdigit(), name
        assert (root / "snapshots" / name / "fs").is_dir(), name
        for link in ("h", "w"):
            path = root / "snapshots" / name / link
            assert not path.is_symlink() or path.is_dir(), path
    left = [path.name for place in ("shims", "layers") for path in (root / place).glob("new-*")]
    assert left == [], left
    for info in infos:
        for mount in verbs.mounts(info.name) if info.kind.label != "committed" else ():
            options = [option.partition("=") for option in mount.options]
            for path_ in [p for name, _, p in options if name in ("upperdir", "workdir")]:
                assert Path(path_).is_dir(), path_


def in_child(work: Callable[[Callable[[State], None]], None]) -> Result:
    """Runs `work` in a forked process; it may send values as it goes."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        status = 1
        try:
            with open(writing, "w") as pipe:
                _child(pipe, work)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading) as pipe:
        lines = pipe.read().splitlines()
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    said = [json.loads(line) for line in lines if killed is False or line.endswith("}")]
    problem = "" if killed or status == 0 else next((s["problem"] for s in said if "problem" in s), f"status {status}")
    return Result(killed, [s["state"] for s in said if "state" in s], problem)


def _child(pipe: io.TextIOBase, work: Callable[[Callable[[State], None]], None]) -> None:
    def write(state: State) -> None:
        pipe.write(json.dumps({"state": state}) + "\n")
        pipe.flush()

    try:
        work(write)
    except BaseException:
        pipe.write(json.dumps({"problem": traceback.format_exc(limit=-6)}) + "\n")
        pipe.flush()
        raise


def main() -> None:
    """Tells one story and prints what came of it."""
    base, name = Path(sys.argv[1]), sys.argv[2]
    crashes = Crashes(base, STORIES[name])
    crashes.run()
    print(json.dumps({"kills": crashes.kills, "failures": crashes.failures}))


if __name__ == "__main__":
    main()
