"""What the tests of the commands share."""

from collections.abc import Iterator

import pytest

from tests.cli.commands import Told, told


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """A node that a module's tests only ask, and do not change."""
    with told(tmp_path_factory.mktemp("node")) as node:
        yield node
