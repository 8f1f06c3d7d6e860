"""docs/install.md is typed on booted Debians, so that it cannot rot."""

from collections.abc import Iterator

import pytest

from tests.cli.operations import Chapter, likened, play, unshown
from tests.packages.node import World
from tests.packages.pagenode import page_chapters, page_node, place

pytestmark = [pytest.mark.engine, pytest.mark.fuse, pytest.mark.root, pytest.mark.slow]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with place(tmp_path_factory.mktemp("page")) as made:
        yield made


@pytest.mark.parametrize("chapter", page_chapters(), ids=lambda chapter: chapter.title)
def test_the_page_is_true(shared: World, chapter: Chapter) -> None:
    """What a reader types, in its order, is answered as the page shows."""
    with page_node(shared) as node:
        answers = play(chapter, node.happen, node.type)
    for one in answers:
        shown, said = (list(map(likened, lines)) for lines in (one.typed.answer, one.lines))
        assert one.is_as_shown or said == shown, f"line {one.typed.line}: {one.typed.command}"
    assert not unshown(answers)
