"""docs/install.md is typed on booted Debians, so that it cannot rot."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from tests.cli.operations import Chapter, likened, play, unshown
from tests.packages.pagenode import PageNode, nodes, page_chapters

pytestmark = [pytest.mark.engine, pytest.mark.fuse, pytest.mark.root, pytest.mark.slow]


@pytest.fixture(scope="module")
def node_of(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[Chapter], AbstractContextManager[PageNode]]]:
    with nodes(tmp_path_factory.mktemp("page")) as made:
        yield made


@pytest.mark.parametrize("chapter", page_chapters(), ids=lambda chapter: chapter.title)
def test_the_page_is_true(node_of: Callable[[Chapter], AbstractContextManager[PageNode]], chapter: Chapter) -> None:
    """What a reader types, in its order, is answered as the page shows."""
    with node_of(chapter) as node:
        answers = play(chapter, node.happen, node.type)
    for one in answers:
        shown, said = (list(map(likened, lines)) for lines in (one.typed.answer, one.lines))
        assert one.is_as_shown or said == shown, f"line {one.typed.line}: {one.typed.command}"
    assert not unshown(answers)
