"""How calls into a mount end."""

from collections.abc import Callable

PROMPT = 2.0
"""Seconds within which whatever is not held is answered, on a busy machine too."""


def number_of(call: Callable[[], object]) -> int:
    """The error that the call ends with; 0 if it succeeds."""
    try:
        call()
    except OSError as error:
        return error.errno or -1
    return 0
