"""What the pages show as a file is one."""

import json
import tomllib

import pytest
import yaml

from tests.docs.pages import Block, walk_blocks


def _blocks(language: str) -> list[Block]:
    return [block for block in walk_blocks() if block.language == language]


@pytest.mark.parametrize("block", _blocks("toml"), ids=lambda block: block.page)
def test_toml_parses(block: Block) -> None:
    """Each block of TOML is a document."""
    assert tomllib.loads(block.text)


@pytest.mark.parametrize("block", _blocks("yaml"), ids=lambda block: block.page)
def test_yaml_parses(block: Block) -> None:
    """Each block of YAML is one or more documents."""
    assert all(document is not None for document in yaml.safe_load_all(block.text))


@pytest.mark.parametrize("block", _blocks("json"), ids=lambda block: block.page)
def test_json_parses(block: Block) -> None:
    """Each line of JSON is an object, in which `...` may stand for what is left out."""
    for line in block.text.splitlines():
        assert isinstance(json.loads(line.replace(", ...}", "}")), dict)
