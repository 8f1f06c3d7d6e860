"""A repository behind its guard: every call has a deadline, and an answer, be it only why there is none.

The prober looks every `interval` seconds whether the repository answers, so that an outage is known before a Prepare
runs into it, and its end soon after it. A probe that hangs is not repeated on the same mount: when the mount recovers
the probe comes back by itself; and when another is mounted in its place, which the kernel's mount table tells without
touching it, a new probe goes there, and what hung on the old one counts no more.

A layer that hung is under suspicion: calls about it are answered at once, so that however often it is asked for, it
costs nobody a deadline and a thread, nor the other layers a breaker that opens. An error that takes long counts as a
hang here too: a CVMFS client gives up on what it cannot fetch after many seconds. The suspicion ends with an answer,
late or not, or a quick error; where the look ended in another way the prober looks again, one layer after the other.
"""

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from cvmfsrepo.access import Access, Crowded, DeadlineExpired
from cvmfsrepo.breaker import SLOW, Breaker, Health, State
from cvmfsrepo.contained import listed_directory
from cvmfsrepo.digest import Digest
from cvmfsrepo.reasons import Reason, reason_of
from cvmfsrepo.repository import Layer, Missing, Repository

T = TypeVar("T")

_MOST_SEEN = 10_000
"""Layers that are remembered as readable before the old ones are dropped."""

_MOST_HANGING = 32
"""Mounts, taken away while a probe hung on them, after which no more are probed."""

_ESCAPED = re.compile(r"\\([0-7]{3})")
_GOOD_ANSWERS = frozenset({Reason.ABSENT, Reason.MARKERS_UNAVAILABLE})
"""Reasons that say nothing against the repository's health."""


@dataclass(slots=True)
class _Look:
    """A call about a layer (or none). `mount` counts the mounts that there were when it was asked for; `runs` while a
    thread is at it; `seconds` is what it took then."""

    layer: Digest | None
    mount: int
    runs: bool = False
    seconds: float = 0.0


class GuardedRepository:
    """`repository` is only for naming things and for work that is passed to `call`."""

    def __init__(self, repository: Repository, deadline: float = 5.0, interval: float = 5.0) -> None:
        self.repository = repository
        self.interval = interval
        self._access = Access(deadline)
        self._breaker = Breaker()
        self._stop = threading.Event()
        self._lock, self._looking_again = threading.Lock(), threading.Lock()
        self._mounts = 0
        self._probes = 0
        self._suspects: dict[Digest, _Look] = {}
        self._seen: dict[Digest, float] = {}
        self._revision: int | None = None
        self._revision_read = float("-inf")

    @property
    def name(self) -> str:
        return self.repository.name

    @property
    def deadline(self) -> float:
        return self._access.deadline

    @property
    def health(self) -> Health:
        return self._breaker.health

    @property
    def mounts(self) -> int:
        """How often another mount took the place of the last one."""
        return self._mounts

    @property
    def is_known(self) -> bool:
        """Whether a probe has told of its health, be it by its silence."""
        return self._probes > 0

    @property
    def hanging(self) -> int:
        """Calls that hang in it, with nobody waiting for them any more."""
        return self._access.lost

    @property
    def seen_revision(self) -> int | None:
        """The revision as it was seen last, without a look; None before the first one."""
        return self._revision

    def call(
        self, work: Callable[[], T | Missing], layer: Digest | None = None, until: float | None = None
    ) -> T | Missing:
        """What `work()` answers, or why it does not. `layer` is what it is about: while a call about it hangs, others
        about it are answered at once. `until` (of time.monotonic) is the moment to give up, where not the deadline
        counts from now."""
        if refusal := self._refusal(layer):
            return refusal
        look = _Look(layer, self._mounts)
        try:
            answer = self._access.call(lambda: self._clearing(look, work), until)
        except DeadlineExpired as error:
            return self._hung(look, error)
        except OSError as error:
            return self._failed(look, Missing(reason_of(error), f"repository {self.name}: {error}"))
        if isinstance(answer, Missing) and answer.reason not in _GOOD_ANSWERS:
            return self._failed(look, answer)
        self._breaker.answered()
        return answer

    def later(self, work: Callable[[], object]) -> None:
        """Runs `work()` some time, while the repository is healthy."""
        if self.health.state is State.HEALTHY:
            self._access.later(work)

    def find_unreadable(self, layers: Iterable[Digest]) -> Missing | None:
        """Why the first of several layers that cannot be read now cannot, with its name; all are looked at side by side
        under one deadline. One that was readable within the last probe interval is not looked at again."""
        oldest = time.monotonic() - self.interval
        unseen = [layer for layer in dict.fromkeys(layers) if self._seen.get(layer, float("-inf")) < oldest]
        if not unseen:
            return None
        for layer in unseen:
            if refusal := self._refusal(layer):
                return _naming(layer, refusal)
        return self._look(unseen)

    def saw(self, layer: Digest) -> None:
        """Notes that a layer was read just now."""
        now = time.monotonic()
        with self._lock:
            if len(self._seen) > _MOST_SEEN:
                self._seen = {digest: at for digest, at in self._seen.items() if at > now - self.interval}
            self._seen[layer] = now

    def find_revision(self) -> int | None:
        """The revision that is mounted, as the prober saw it last; to be called where a repository may be waited for,
        as it is read here before the first probe. OSError as it comes."""
        if time.monotonic() - self._revision_read > 2 * self.interval:
            self._note_revision()
        return self._revision

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
            known = f"did not answer when it was looked at, which goes on every {self.interval:g} s"
            return Missing(Reason.TIMEOUT, f"repository {self.name}: layer {layer} {known}")
        return None

    def _clearing(self, look: _Look, work: Callable[[], T]) -> T:
        """The work, whose answer, however late, ends the suspicion of its layer; so does a quick error."""
        began, good, look.runs = time.monotonic(), False, True
        try:
            answer = work()
            good = not isinstance(answer, Missing) or answer.reason in _GOOD_ANSWERS
            return answer
        finally:
            with self._lock:
                look.runs, look.seconds = False, time.monotonic() - began
                good = good or look.seconds < min(SLOW, self.deadline)
                if good and look.layer is not None and look.mount == self._mounts:
                    self._suspects.pop(look.layer, None)

    def _hung(self, look: _Look, problem: DeadlineExpired) -> Missing:
        missing = Missing(Reason.TIMEOUT, f"repository {self.name}: {problem}")
        if isinstance(problem, Crowded):
            return missing
        with self._lock:
            is_of_now = look.mount == self._mounts
            if look.layer is not None and is_of_now and look.runs:
                self._suspects[look.layer] = look
        if is_of_now:
            self._breaker.hung(str(problem), look.layer)
        return missing

    def _failed(self, look: _Look, missing: Missing) -> Missing:
        with self._lock:
            if look.layer is not None and look.seconds >= SLOW and look.mount == self._mounts:
                self._suspects[look.layer] = look
        self._breaker.failed(missing.detail, look.seconds, look.layer)
        return missing

    def _look(self, layers: list[Digest]) -> Missing | None:
        looks = [_Look(layer, self._mounts) for layer in layers]
        works = [
            partial(self._clearing, look, partial(self.repository.find_layer, layer))
            for look, layer in zip(looks, layers, strict=True)
        ]
        unreadable = None
        for layer, look, answer in zip(layers, looks, self._access.call_all(works), strict=True):
            try:
                found: Layer | Missing = answer()
            except DeadlineExpired as error:
                found = self._hung(look, error)
            else:
                self._note(look, found)
            if isinstance(found, Missing):
                unreadable = unreadable or _naming(layer, found)
        return unreadable

    def _note(self, look: _Look, found: Layer | Missing) -> None:
        """What an answer about a layer says of the repository's health."""
        if isinstance(found, Layer):
            self.saw(found.digest)
        if isinstance(found, Missing) and found.reason not in _GOOD_ANSWERS:
            self._failed(look, found)
        else:
            self._breaker.answered()

    def _probe_regularly(self) -> None:
        hanging: dict[str, threading.Event] = {}
        last, pause = mount_of(self.repository.layout.root), 0.0
        while not self._stop.wait(pause):
            pause = self.interval
            hanging = {mount: done for mount, done in hanging.items() if not done.is_set()}
            mount = mount_of(self.repository.layout.root)
            if mount != last:
                last = mount
                self._forget_hangs()
            if mount in hanging or len(hanging) > _MOST_HANGING:
                continue
            done = threading.Event()
            threading.Thread(target=self._probe, args=(done, self._mounts), name="probe", daemon=True).start()
            if not self._is_answered(done, mount):
                hanging[mount] = done
            self._probes += 1

    def _is_answered(self, done: threading.Event, mount: str) -> bool:
        """Waits for a probe, at most for the deadline, which opens the breaker; less where another mount comes."""
        end = time.monotonic() + self.deadline
        while not done.wait(min(self.interval, max(0.0, end - time.monotonic()))):
            if mount_of(self.repository.layout.root) != mount:
                return False
            if time.monotonic() >= end:
                self._breaker.open_now(f"no answer within {self.deadline:g} s")
                return False
        return True

    def _forget_hangs(self) -> None:
        """Another mount: what hung on the last one may hang for ever, and means nothing for this one."""
        with self._lock:
            self._mounts += 1
            self._suspects.clear()

    def _probe(self, done: threading.Event, mount: int) -> None:
        """One look at the layers' directory, and at the revision."""
        problem = ""
        try:
            layout = self.repository.layout
            with listed_directory(layout.root, layout.layers) as directory, os.scandir(directory) as names:
                next(names, None)
            self._note_revision()
        except OSError as error:
            problem = f"{self.repository.layout.layers}: {error.strerror}"
        if mount == self._mounts:
            self._breaker.probed(problem)
        done.set()
        if not problem and self._looking_again.acquire(blocking=False):
            try:
                self._look_again(mount)
            finally:
                self._looking_again.release()

    def _look_again(self, mount: int) -> None:
        """Looks at layers under suspicion, the longest first, up to one that has no answer: so a probe costs one thread
        that hangs, however many they are, and when the trouble is over the suspicion of all ends at once."""
        while mount == self._mounts and not self._stop.is_set() and (found := self._next_suspect(mount)):
            layer, look = found
            with contextlib.suppress(DeadlineExpired, OSError):
                self._access.call(partial(self._clearing, look, partial(self.repository.find_layer, layer)))
            if layer in self._suspects:
                return

    def _next_suspect(self, mount: int) -> tuple[Digest, _Look] | None:
        """A new look at the first layer that no call hangs on; it goes to the end of the line."""
        with self._lock:
            layer = next((layer for layer, last in self._suspects.items() if not last.runs), None)
            if layer is None:
                return None
            del self._suspects[layer]
            self._suspects[layer] = look = _Look(layer, mount)
            return layer, look

    def _note_revision(self) -> None:
        self._revision = self.repository.find_revision()
        self._revision_read = time.monotonic()


def _naming(layer: Digest, missing: Missing) -> Missing:
    """The same, with the layer in its sentence."""
    named = str(layer) in missing.detail
    return missing if named else Missing(missing.reason, f"layer {layer}: {missing.detail}")


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
