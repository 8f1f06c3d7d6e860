"""docs/kubernetes.md: what an administrator types, and the files that he writes."""

import re
import textwrap

from tests.standins import PROJECT

TEXT = (PROJECT / "docs" / "kubernetes.md").read_text()


def typed(beginning: str) -> list[str]:
    """The lines of its shell blocks that begin so."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", TEXT, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in textwrap.dedent(block).splitlines()]
    return [line for line in lines if line.startswith(beginning)]


def files() -> dict[str, str]:
    """By the names in their first lines."""
    blocks = re.findall(r"^```(?:yaml|toml)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    return {name: text for text in blocks for name in re.findall(r"\A# (\w+\.(?:yaml|toml))\b", text)}
