"""docs/containerd.md shows what the node itself says."""

import pytest
from click.testing import CliRunner

from snapshotter.cli.main import cli
from tests.docs.pages import walk_blocks

BLOCKS = [block.text for block in walk_blocks() if block.page == "docs/containerd.md" and block.language == "toml"]


GENERATIONS = [["1.6.20", "1.7"], ["2.0"], ["2.1", "2.4"]]


@pytest.mark.parametrize(
    ("version", "text"),
    [(version, text) for versions, text in zip(GENERATIONS, BLOCKS, strict=True) for version in versions],
)
def test_the_page_shows_what_the_command_prints(version: str, text: str) -> None:
    """For each generation, letter for letter."""
    done = CliRunner().invoke(
        cli, ["config", "containerd", "--containerd-version", version, "--platform", "linux/amd64"]
    )
    assert done.exit_code == 0
    assert done.stdout.rstrip() == text.rstrip()
