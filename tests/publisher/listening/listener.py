"""A real `cvmfs-publisher listen`, which can be killed and started again."""

import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from publisher.listening.queue import Job, read_jobs
from tests.publisher.publishing import command

_LONGEST = 60.0


@dataclass(slots=True)
class Listener:
    """A process in a directory of the test: repository, queue, and what it said."""

    directory: Path
    allow: str
    options: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    said: list[str] = field(default_factory=list)
    address: str = ""
    _process: "subprocess.Popen[str] | None" = None

    @property
    def repository(self) -> Path:
        return self.directory / "repository"

    @property
    def queue(self) -> Path:
        return self.directory / "queue"

    @property
    def words(self) -> list[str]:
        where = [*(self.where or ("--repository", str(self.repository))), "--queue", str(self.queue)]
        return command("listen", *where, "--allow", self.allow, *self.options)

    def __enter__(self) -> "Listener":
        self.repository.mkdir(exist_ok=True)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self, address: str = "127.0.0.1:0") -> None:
        self._process = subprocess.Popen([*self.words, "--address", address], stdout=subprocess.PIPE, text=True)
        self.address = self.wait_for("listening on ").rpartition("http://")[2].partition("/")[0]

    def wait_for(self, words: str) -> str:
        """The next line that holds these words; a process that does not say it is ended."""
        assert self._process
        end = threading.Timer(_LONGEST, self._process.kill)
        end.start()
        try:
            for line in self._output:
                self.said.append(line.rstrip())
                if words in line:
                    return line.rstrip()
        finally:
            end.cancel()
        raise AssertionError(f"never said {words!r}: {self.said}")

    def kill(self) -> None:
        """As kill -9 does."""
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def end(self) -> int:
        """SIGTERM, and its status."""
        return self.end_later()()

    def end_later(self) -> Callable[[], int]:
        """SIGTERM, and what waits for its status."""
        assert self._process
        process, self._process = self._process, None
        process.send_signal(signal.SIGTERM)

        def ended() -> int:
            self.said += process.communicate(timeout=_LONGEST)[0].splitlines()
            return process.returncode

        return ended

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def jobs(self) -> tuple[Job, ...]:
        return read_jobs(self.queue)

    def settle(self) -> None:
        """Waits until the queue is empty."""
        end = time.monotonic() + _LONGEST
        while self.jobs():
            assert time.monotonic() < end, self.jobs()
            time.sleep(0.02)

    @property
    def _output(self) -> IO[str]:
        assert self._process
        assert self._process.stdout
        return self._process.stdout
