"""Why a layer is not served from a repository: a closed set, so that a log, a metric and a person mean the same."""

import errno
from enum import StrEnum


class Reason(StrEnum):
    """One word for the log, the snapshot's record and the metric; the sentence beside it says the rest."""

    ABSENT = "absent"
    UNMOUNTED = "unmounted"
    TIMEOUT = "timeout"
    IO_ERROR = "io-error"
    DENIED = "denied"
    STALE = "stale"
    BREAKER_OPEN = "breaker-open"
    NO_LAYER_LABEL = "no-layer-label"
    BAD_LABEL = "bad-label"
    MARKERS_UNAVAILABLE = "markers-unavailable"
    USERNS = "userns"


_BY_ERRNO = {
    errno.ENOENT: Reason.ABSENT,
    errno.ENOTDIR: Reason.ABSENT,
    errno.ENOTCONN: Reason.UNMOUNTED,
    errno.ENODEV: Reason.UNMOUNTED,
    errno.ETIMEDOUT: Reason.TIMEOUT,
    errno.ESTALE: Reason.STALE,
    errno.EACCES: Reason.DENIED,
    errno.EPERM: Reason.DENIED,
    errno.ELOOP: Reason.DENIED,
}


_OUR_OWN = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def reason_of(error: OSError) -> Reason:
    """What an error of the file system says of a layer. Only "no such name" means absent: EIO on a name that
    does not exist is what a CVMFS client answers while it cannot load the catalog. A lack of our own says nothing of
    the layer: such an error is raised again."""
    if error.errno in _OUR_OWN:
        raise error
    return _BY_ERRNO.get(error.errno or 0, Reason.IO_ERROR)
