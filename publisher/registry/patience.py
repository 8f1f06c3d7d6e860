"""How long a registry that is busy or stumbles is waited for: a few tries, further and further apart, and never in step
with everybody else who was turned away at the same moment. And how fast it is asked."""

import random
import threading
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

from cvmfsrepo.errors import Unavailable

_PASSING = frozenset({408, 429, 500, 502, 503, 504})
LONGEST = 3600.0
"""Seconds for which a registry is left alone, whatever it asks for, and whatever an earlier pass noted: clocks jump."""
wait = time.sleep
"""What waiting is; tests wait in no other way."""


class Throttled(Unavailable):
    """The registry asks to be left alone: for `seconds`."""

    seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Patience:
    """`tries` of a request in all, the second after about `first` seconds, each later one after twice as long, at most
    `longest`. A registry that asks for more than that is not waited for, but told of."""

    tries: int = 4
    first: float = 0.5
    longest: float = 10.0

    def delay(self, tried: int, asked: float | None) -> float | None:
        """Seconds until the next try after `tried` of them; None where there is to be none. `asked` is what the
        registry wants."""
        if tried >= self.tries or (asked is not None and asked > self.longest):
            return None
        planned = min(self.longest, self.first * 2.0 ** (tried - 1)) * random.uniform(0.5, 1.5)
        return max(planned, asked or 0.0)


USUAL = Patience()


@dataclass(slots=True)
class Pace:
    """At most `rate` requests a second, evenly; 0 is as many as come. Safe from several threads."""

    rate: float
    _next: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def keep(self) -> None:
        """Waits until it is this request's turn."""
        if not self.rate:
            return
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + 1 / self.rate
        if turn > now:
            wait(turn - now)


def is_passing(status: int) -> bool:
    """Whether the same request may work a moment later."""
    return status in _PASSING


def asked_for(retry_after: str | None) -> float | None:
    """The seconds of a Retry-After header, a number or a date, an hour at most; None where it says nothing of use."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdecimal() and len(text) < 12:
        return min(float(text), LONGEST)
    try:
        until = parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(max(until - time.time(), 0.0), LONGEST)
