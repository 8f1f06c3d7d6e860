"""Which error of the file system means what for a layer."""

import errno
import os

import pytest

from cvmfsrepo.reasons import Reason, reason_of

TABLE = {
    errno.ENOENT: Reason.ABSENT,
    errno.ENOTDIR: Reason.ABSENT,
    errno.ENOTCONN: Reason.UNMOUNTED,
    errno.ENODEV: Reason.UNMOUNTED,
    errno.ETIMEDOUT: Reason.TIMEOUT,
    errno.ESTALE: Reason.STALE,
    errno.EACCES: Reason.DENIED,
    errno.EPERM: Reason.DENIED,
    errno.ELOOP: Reason.DENIED,
    errno.EIO: Reason.IO_ERROR,
}


OUR_OWN = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


@pytest.mark.parametrize("number", sorted(OUR_OWN))
def test_a_lack_of_our_own_is_no_reason(number: int) -> None:
    """It is raised again: the layer may be there, and a download would be for nothing."""
    with pytest.raises(OSError, match=os.strerror(number)):
        reason_of(OSError(number, os.strerror(number)))


@pytest.mark.parametrize("number", sorted(errno.errorcode.keys() - OUR_OWN))
def test_every_errno_has_a_reason(number: int) -> None:
    """Those of the table have theirs; whatever else is an I/O error and never "absent"."""
    assert reason_of(OSError(number, os.strerror(number))) is TABLE.get(number, Reason.IO_ERROR)


def test_error_without_a_number() -> None:
    """An OSError that somebody raised with a text alone is an I/O error."""
    assert reason_of(OSError("odd")) is Reason.IO_ERROR


def test_reasons_are_words_for_logs_and_labels() -> None:
    """Lower case and hyphens, each once: they become values of log keys and metric labels."""
    values = [reason.value for reason in Reason]
    assert len(set(values)) == len(values)
    assert all(value.replace("-", "").isalpha() and value.islower() for value in values)
