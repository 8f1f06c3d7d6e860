"""Every error says which thing, what is wrong and what to do, whatever the input was."""

import pytest

from cvmfsrepo import errors
from cvmfsrepo.errors import ContractError, InvalidArgument

LONGEST = 1000


def test_message_has_thing_value_problem_and_remedy() -> None:
    """`<thing> <repr>: <problem>; <remedy>`, and each part can be read from the error."""
    error = InvalidArgument("layer digest", "x'y", "is not a digest", "look at the label")
    assert str(error) == 'layer digest "x\'y": is not a digest; look at the label'
    parts = (error.thing, error.value, error.problem, error.remedy)
    assert parts == ("layer digest", "x'y", "is not a digest", "look at the label")


def test_no_remedy_leaves_no_trace() -> None:
    """Where nothing can be done the message ends with the problem."""
    assert str(errors.NotFound("blob", 7, "is gone")) == "blob 7: is gone"


@pytest.mark.parametrize("value", ["a" * 10**6, b"\xff" * 10**6, "\x00\n\x1b[2J" * 10**5, list(range(10**5))])
def test_hostile_value_is_cut_and_quoted(value: object) -> None:
    """A value of a megabyte makes a short message of one line without control characters."""
    text = str(InvalidArgument("digest", value, "is wrong"))
    assert len(text) < LONGEST
    assert text.isprintable()
    assert text.endswith("characters): is wrong")


def test_long_problem_is_cut() -> None:
    """A problem that quotes its input (a decoder's words) cannot flood the log either; the remedy stays."""
    text = str(InvalidArgument("manifest", "m", "x" * 10**6, "publish it again"))
    assert len(text) < LONGEST
    assert text.endswith("; publish it again")


def test_a_problem_is_one_line() -> None:
    """What a server said may be in it; no terminal and no log is told to do anything by it. Letters stay."""
    text = str(InvalidArgument("image", "i", "is answered with \x1b]0;x\x07 ü\r\nqueued evil"))
    assert text == r"image 'i': is answered with \x1b]0;x\x07 ü\r\nqueued evil"


def test_every_class_is_a_contract_error() -> None:
    """One base class, and the closed set of names that the gRPC interceptor knows."""
    found = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, ContractError)}
    assert found - {"ContractError"} == {
        *("InvalidArgument", "NotFound", "AlreadyExists", "FailedPrecondition", "Unavailable", "ResourceExhausted"),
        *("PermissionDenied", "DataLoss", "Unimplemented", "Internal"),
    }
