"""What is expensive and shared: the world, once in each process, and one podman for each of its setups."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.podman import PODMANS, rootless_problem
from tests.podmanstore.real import world as worlds

VERSIONS = list(PODMANS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is root's, and has real engines and FUSE."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            for need in ("root", "engine", "fuse"):
                item.add_marker(need)


@pytest.fixture(scope="session")
def world() -> Iterator[worlds.World]:
    with worlds.world() as made:
        yield made


@pytest.fixture(scope="module", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def need_users() -> None:
    if problem := rootless_problem():
        pytest.skip(f"needs user namespaces: {problem}")
