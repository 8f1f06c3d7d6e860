"""How many examples a property test takes: as many as it says, and in the fast tier a fifth of them."""

from hypothesis import settings

_USUAL = 100
"""Examples of a test that names no number, in a full run."""


def examples(number: int) -> int:
    """`max_examples` of a test; a profile with fewer (tests/conftest.py) has its share of them."""
    return max(1, number * settings().max_examples // _USUAL)
