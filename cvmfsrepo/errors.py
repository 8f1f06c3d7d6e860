"""The errors of the whole project, named after containerd's errdefs so that each has one gRPC code.

Every error says which thing is meant, what is wrong with it and what to do about it. Library code raises them and
never logs them; the edges (the gRPC interceptor, the command lines) turn them into a code or an exit status.
"""


class ContractError(Exception):
    """Base of all errors that a caller may see: `<thing> <repr>: <problem>; <remedy>`.

    `thing` names the kind of thing ("snapshot", "layer digest", "configuration key"), `value` the one that is meant,
    `problem` what is wrong, `remedy` what the reader can do, empty where nothing can be done.
    """

    def __init__(self, thing: str, value: object, problem: str, remedy: str = "") -> None:
        self.thing, self.value, self.problem, self.remedy = thing, value, problem, remedy
        super().__init__(f"{thing} {_quoted(value)}: {_in_one_line(_cut(problem))}" + (f"; {remedy}" if remedy else ""))


class InvalidArgument(ContractError):
    """The caller's input can never work, whatever the state."""


class NotFound(ContractError):
    """The thing asked for does not exist."""


class AlreadyExists(ContractError):
    """The name is taken; for a remote Prepare it is the good news that the layer is served."""


class FailedPrecondition(ContractError):
    """The request is well formed, but the state does not allow it."""


class Unavailable(ContractError):
    """Something that is needed does not answer now; the same request may work later."""


class ResourceExhausted(ContractError):
    """Disk, inodes, descriptors or a configured limit are used up."""


class PermissionDenied(ContractError):
    """The process or the caller may not do this."""


class DataLoss(ContractError):
    """Stored data is damaged, or bytes are not the ones their digest promises."""


class Unimplemented(ContractError):
    """Asked for something that this version does not do."""


class Internal(ContractError):
    """A promise of our own is broken: a bug."""


def _quoted(value: object) -> str:
    """The value's repr, cut so that hostile input cannot flood a log or a gRPC status."""
    return _cut(repr(value))


def _in_one_line(text: str) -> str:
    """Without control characters: a problem may quote what a server said, to a terminal or a log."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _cut(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:280]}... ({len(text)} characters)"
