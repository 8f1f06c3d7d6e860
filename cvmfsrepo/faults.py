"""What can go wrong with a served repository: switched on and off while it is served, for all or for some of it.

Each kind imitates what was measured on a real client, or what its kernel interface is known to answer:

    stall     no answer until `seconds` have passed since it was switched on (none: for ever), then the right one
    slow      every lookup takes `seconds` more
    catalog   the server is gone and the catalog below `path` was never loaded: a good stat of `path`, and EIO from its
              listing and from every name in it, also from one that does not exist
    eio       the server is gone and nothing is cached; what a client keeps in memory still answers
    enotconn  the client died
    estale    the client was replaced under an open file
    eacces    somebody may not

The last five answer after `seconds` of trying (none: at once). Giving a file back is never hit: nobody waits for it.
"""

import errno
import os
import re
import threading
import time
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The kinds of the table above."""

    STALL = "stall"
    SLOW = "slow"
    CATALOG = "catalog"
    EIO = "eio"
    ENOTCONN = "enotconn"
    ESTALE = "estale"
    EACCES = "eacces"


_ERRORS = {
    Kind.CATALOG: errno.EIO,
    Kind.EIO: errno.EIO,
    Kind.ENOTCONN: errno.ENOTCONN,
    Kind.ESTALE: errno.ESTALE,
    Kind.EACCES: errno.EACCES,
}
_GIVING_BACK = frozenset({"release", "releasedir"})


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of trouble at `path` and everything below it; `*` in it stands for whatever is in one name. `operations`
    narrows it to these (getattr is also a lookup); without them it hits what its kind says."""

    kind: Kind
    path: str = "/"
    seconds: float | None = None
    operations: frozenset[str] = frozenset()

    def hits(self, operation: str, path: str, remembered: bool) -> bool:
        """`remembered`: a client answers this from its memory, whatever became of the server."""
        found = self._pattern().fullmatch(path.rstrip("/"))
        if found is None or operation in _GIVING_BACK or (self.operations and operation not in self.operations):
            return False
        if self.kind is Kind.CATALOG:
            return not remembered and (operation == "opendir" or found["below"] is not None)
        if self.kind is Kind.EIO:
            return not remembered
        return self.kind is not Kind.SLOW or bool(self.operations) or operation == "getattr"

    def _pattern(self) -> re.Pattern[str]:
        """re keeps what it compiled, so this costs a look-up."""
        any_name = re.escape(self.path.rstrip("/")).replace(r"\*", "[^/]*")
        return re.compile(f"{any_name}(?P<below>/.*)?", re.DOTALL)


class _Active:
    """A fault that is switched on; `over` when it is switched off, which lets those go that it holds."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.over = threading.Event()
        self._began = time.monotonic()

    def holds_for(self) -> float | None:
        """Seconds that a call which meets it now has to wait; None is for ever."""
        if self.fault.kind is not Kind.STALL:
            return self.fault.seconds or 0.0
        if self.fault.seconds is None:
            return None
        return max(0.0, self._began + self.fault.seconds - time.monotonic())


class Faults:
    """Those that are switched on. A call meets all that hit it, oldest first, in its own thread: whatever is held
    holds nobody else."""

    def __init__(self) -> None:
        self._changed = threading.Lock()
        self._active: tuple[_Active, ...] = ()  # replaced, never altered: a call reads it without the lock
        self._held = 0

    @property
    def held(self) -> int:
        """Calls that wait now."""
        return self._held

    def add(self, fault: Fault) -> None:
        with self._changed:
            self._active += (_Active(fault),)

    def clear(self, path: str | None = None) -> None:
        """Switch off those that were switched on with exactly this path, or all; what they held goes on at once."""
        with self._changed:
            ended = [active for active in self._active if path is None or active.fault.path == path]
            self._active = tuple(active for active in self._active if active not in ended)
        for active in ended:
            active.over.set()

    def meet(self, operation: str, path: str, remembered: bool) -> None:
        """Return late, raise, or do nothing, as the faults have it."""
        for active in self._active:
            if active.fault.hits(operation, path, remembered):
                self._suffer(active)

    def _suffer(self, active: _Active) -> None:
        seconds = active.holds_for()
        if seconds is None or seconds > 0:
            with self._changed:
                self._held += 1
            active.over.wait(seconds)
            with self._changed:
                self._held -= 1
        if (number := _ERRORS.get(active.fault.kind)) and not active.over.is_set():
            raise OSError(number, os.strerror(number))
