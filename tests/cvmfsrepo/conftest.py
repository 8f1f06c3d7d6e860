"""What the tests of stand-ins share."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Callers; requested before the stand-in, so that they end after it, whose end lets them go."""
    with ThreadPoolExecutor(80) as pool:
        yield pool
