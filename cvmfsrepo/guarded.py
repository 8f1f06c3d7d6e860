"""A repository behind its guard: every call has a deadline, and an answer, be it only why there is none.

The prober looks every `interval` seconds whether the repository answers, so that an outage is known before a Prepare
runs into it, and its end soon after it. A probe that hangs is not repeated on the same mount: when the mount recovers
the probe comes back by itself; and when another is mounted in its place, which the kernel's mount table tells without
touching it, a new probe goes there.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TypeVar

from cvmfsrepo.access import Access, DeadlineExpired
from cvmfsrepo.breaker import Breaker, Health, State
from cvmfsrepo.digest import Digest
from cvmfsrepo.reasons import Reason, reason_of
from cvmfsrepo.repository import Layer, Missing, Repository

T = TypeVar("T")

_ESCAPED = re.compile(r"\\([0-7]{3})")
_GOOD_ANSWERS = frozenset({Reason.ABSENT, Reason.MARKERS_UNAVAILABLE})
"""Reasons that say nothing against the repository's health."""


class GuardedRepository:
    """`repository` is only for naming things and for work that is passed to `call`."""

    def __init__(self, repository: Repository, deadline: float = 5.0, interval: float = 5.0) -> None:
        self.repository = repository
        self.interval = interval
        self._access = Access(deadline)
        self._breaker = Breaker()
        self._stop = threading.Event()
        self._suspects: dict[Digest, str] = {}
        self._seen: dict[Digest, float] = {}

    @property
    def name(self) -> str:
        return self.repository.name

    @property
    def deadline(self) -> float:
        return self._access.deadline

    @property
    def health(self) -> Health:
        return self._breaker.health

    def call(self, work: Callable[[], T | Missing], layer: Digest | None = None) -> T | Missing:
        """What `work()` answers, or why it does not. `layer` is what it is about: while a call about it hangs, others
        about it are answered at once."""
        if refusal := self._refusal(layer):
            return refusal
        began = time.monotonic()
        try:
            answer = self._access.call(lambda: self._clearing(layer, work))
        except DeadlineExpired as error:
            return self._hung(layer, str(error))
        except OSError as error:
            return self._failed(Missing(reason_of(error), f"repository {self.name}: {error}"), began, layer)
        if isinstance(answer, Missing) and answer.reason not in _GOOD_ANSWERS:
            return self._failed(answer, began, layer)
        self._breaker.answered()
        return answer

    def later(self, work: Callable[[], object]) -> None:
        """Runs `work()` some time, while the repository is healthy."""
        if self.health.state is State.HEALTHY:
            self._access.later(work)

    def find_unreadable(self, layers: Iterable[Digest]) -> Missing | None:
        """The first of several layers that cannot be read now, all looked at side by side under one deadline. One
        that was readable within the last probe interval is not looked at again."""
        oldest = time.monotonic() - self.interval
        unseen = [layer for layer in dict.fromkeys(layers) if self._seen.get(layer, float("-inf")) < oldest]
        if not unseen:
            return None
        if refusal := self._refusal():
            return refusal
        return self._look(unseen)

    def saw(self, layer: Digest) -> None:
        """Notes that a layer was read just now."""
        now = time.monotonic()
        if len(self._seen) > 10_000:
            self._seen = {digest: at for digest, at in self._seen.items() if at > now - self.interval}
        self._seen[layer] = now

    def start_probing(self) -> None:
        """Starts the prober; `stop_probing` ends it."""
        threading.Thread(target=self._probe_regularly, name=f"prober of {self.name}", daemon=True).start()

    def stop_probing(self) -> None:
        self._stop.set()

    def _refusal(self, layer: Digest | None = None) -> Missing | None:
        health = self.health
        if health.state is State.OPEN:
            since = f"has not answered for {time.monotonic() - health.since:.0f} s ({health.detail})"
            return Missing(Reason.BREAKER_OPEN, f"repository {self.name} {since}; it is probed all the time")
        if layer in self._suspects:
            if self._suspects[layer] == mount_of(self.repository.layout.root):
                return Missing(Reason.TIMEOUT, f"repository {self.name}: an earlier look at layer {layer} still hangs")
            del self._suspects[layer]
        return None

    def _clearing(self, layer: Digest | None, work: Callable[[], T]) -> T:
        """The work, after which, however late, nothing hangs on this layer any more."""
        try:
            return work()
        finally:
            if layer is not None:
                self._suspects.pop(layer, None)

    def _hung(self, layer: Digest | None, problem: str) -> Missing:
        if layer is not None:
            self._suspects[layer] = mount_of(self.repository.layout.root)
        self._breaker.hung(problem, layer)
        return Missing(Reason.TIMEOUT, f"repository {self.name}: {problem}")

    def _failed(self, missing: Missing, began: float, layer: Digest | None) -> Missing:
        self._breaker.failed(missing.detail, time.monotonic() - began, layer)
        return missing

    def _look(self, layers: list[Digest]) -> Missing | None:
        works = [partial(self._clearing, layer, partial(self.repository.find_layer, layer)) for layer in layers]
        try:
            answers = self._access.call_all(works)
        except DeadlineExpired as error:
            return self._hung(None, str(error))
        unreadable = None
        for layer, answer in zip(layers, answers, strict=True):
            try:
                found: Layer | Missing = answer()
            except DeadlineExpired as error:
                found = self._hung(layer, f"layer {layer}: {error}")
            if isinstance(found, Missing):
                unreadable = unreadable or found
            else:
                self._breaker.answered()
                self.saw(layer)
        return unreadable

    def _probe_regularly(self) -> None:
        hanging: dict[str, threading.Event] = {}
        while not self._stop.wait(self.interval):
            hanging = {mount: done for mount, done in hanging.items() if not done.is_set()}
            mount = mount_of(self.repository.layout.root)
            if mount in hanging or len(hanging) > 32:
                continue
            done = threading.Event()
            threading.Thread(target=self._probe, args=(done,), name="probe", daemon=True).start()
            if not done.wait(self.deadline):
                hanging[mount] = done
                self._breaker.open_now(f"no answer within {self.deadline:g} s")

    def _probe(self, done: threading.Event) -> None:
        """One look at the layers' directory."""
        problem = ""
        try:
            with os.scandir(self.repository.layout.layers) as names:
                next(names, None)
        except OSError as error:
            problem = f"{self.repository.layout.layers}: {error.strerror}"
        self._breaker.probed(problem)
        done.set()


def mount_of(path: Path, table: Path = Path("/proc/self/mountinfo")) -> str:
    """The number that the kernel gave to the mount on which a path lies: another mount, another number. The path
    itself is not touched."""
    best, number = "", ""
    for line in table.read_text(errors="surrogateescape").splitlines():
        fields = line.split(" ", 5)
        point = _ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), fields[4])
        if (path == Path(point) or Path(point) in path.parents) and len(point) >= len(best):
            best, number = point, fields[0]
    return number
