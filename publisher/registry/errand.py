"""What a registry is asked for, in the words of its errors: each names the thing, the registry, and what to do."""

import time
from dataclasses import dataclass

from cvmfsrepo.errors import ContractError, DataLoss, NotFound, PermissionDenied, Unavailable
from publisher.registry.patience import Throttled


@dataclass(frozen=True, slots=True)
class Errand:
    """`thing` and `value` name what is wanted ("image", its reference), `host` the registry or mirror that is asked."""

    thing: str
    value: str
    host: str

    def refused(self, status: int, reason: str, what: str) -> ContractError:
        """An answer with a status that is no success; `what` was asked for."""
        said = f"{status} {reason}".strip()
        if status == 404:
            problem = f"has no {what} in {self.host} ({said})"
            return NotFound(self.thing, self.value, problem, "look at the name and the tag in the registry")
        if status in (401, 403):
            return self.denied(said)
        problem = f"cannot be read: {self.host} answered {said} for the {what}"
        return Unavailable(self.thing, self.value, problem, "try again later")

    def unlisted(self, status: int, reason: str, what: str) -> ContractError:
        """A list that is not given out, as many registries do not give their catalogue to everybody."""
        if status in (400, 401, 403, 404, 405):
            problem = f"gives out no {what} ({status} {reason})"
            remedy = "log in, look at the name, or wish for each repository by its name"
            return (NotFound if status == 404 else PermissionDenied)(self.thing, self.value, problem, remedy)
        return self.refused(status, reason, what)

    def denied(self, detail: object) -> ContractError:
        problem = f"is not given out by {self.host} ({detail})"
        remedy = f"log in first, for example with docker login {self.host}; some registries say this of unknown images"
        return PermissionDenied(self.thing, self.value, problem, remedy)

    def closed(self, why: str, until: float) -> Throttled:
        """A registry that is not asked; `until` in seconds since 1970."""
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(until))
        error = Throttled(self.thing, self.value, f"is not to be had: {self.host} {why} until {when}", "try again then")
        error.seconds = max(until - time.time(), 0.0)
        return error

    def lost(self, error: OSError) -> Unavailable:
        """A connection that failed."""
        remedy = "look whether the registry runs and can be reached from here, and try again"
        problem = f"cannot be read from {self.host}: {_last_words(error)}"
        return Unavailable(self.thing, self.value, problem, remedy)

    def garbage(self, problem: str, remedy: str = "") -> DataLoss:
        """An answer that is none; `problem` goes on from "HOST answered with"."""
        remedy = remedy or f"look what answers as {self.host} (a proxy, a login page), and ask its operator"
        return DataLoss(self.thing, self.value, f"is not to be had: {self.host} answered with {problem}", remedy)


def _last_words(error: OSError) -> str:
    """The innermost reason of a chain of wrapped connection errors, in one line."""
    reason: BaseException = error
    while (inner := reason.__cause__ or reason.__context__) is not None:
        reason = inner
    return " ".join(str(reason).split()) or type(reason).__name__
