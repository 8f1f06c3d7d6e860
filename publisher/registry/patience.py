"""How long a registry that is busy or stumbles is waited for: a few tries, further and further apart, and never in step
with everybody else who was turned away at the same moment."""

import random
from dataclasses import dataclass

from cvmfsrepo.errors import Unavailable

_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_LONGEST_ASKED = 3600.0


class Throttled(Unavailable):
    """The registry asks for patience: `seconds` of it."""

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


def is_passing(status: int) -> bool:
    """Whether the same request may work a moment later."""
    return status in _PASSING


def asked_for(retry_after: str | None) -> float | None:
    """The seconds of a Retry-After header; None where it has none (a date is taken for none)."""
    text = (retry_after or "").strip()
    return min(float(text), _LONGEST_ASKED) if text.isascii() and text.isdecimal() and len(text) < 9 else None
