"""Keeps a store up to date: builds whenever a repository has a new revision."""

import logging
import threading

from cvmfsrepo.errors import ContractError, Unavailable
from podmanstore.build import Built, Request, build
from podmanstore.values import LeftOut

LONGEST_WAIT = 600.0
"""Seconds between two looks at a repository that does not answer, unless the interval is longer."""

_log = logging.getLogger(__name__)


def sync(request: Request, interval: float, hurry: threading.Event) -> None:
    """Looks every `interval` seconds, for ever, and at once when `hurry` is set. While a repository does not answer, or
    a build fails, it waits twice as long each time. What is left out is said once."""
    failures, told = 0, frozenset[LeftOut]()
    last = ""
    while True:
        try:
            built = build(request)
        except (ContractError, OSError) as error:
            failures += 1
            last = _tell_failure(error, last)
        else:
            failures, last = 0, ""
            told = _tell(built, told)
        hurry.wait(wait_after(failures, interval))
        hurry.clear()


def wait_after(failures: int, interval: float) -> float:
    """Seconds until the next look, after so many failures in a row."""
    return interval if failures == 0 else min(interval * 2.0 ** min(failures, 32), max(interval, LONGEST_WAIT))


def _tell(built: Built, told: frozenset[LeftOut]) -> frozenset[LeftOut]:
    """Says what is new of a build; gives what has been said of its left out images."""
    if built.changes:
        _log.info("%s: %s in %.1f s; %d images", built.store, built.changes, built.seconds, built.images)
    for out in built.left_out:
        if out not in told:
            _log.warning("left out: %s: %s", out.name, out.reason)
    return frozenset(built.left_out)


def _tell_failure(error: ContractError | OSError, last: str) -> str:
    text = str(error)
    if text != last:
        _log.log(logging.WARNING if isinstance(error, Unavailable) else logging.ERROR, "%s", text)
    return text
