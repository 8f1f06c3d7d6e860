"""docs/containerd.md quotes the doctor in the words that it has."""

import ast
import re
from pathlib import Path

from snapshotter.doctor import engine, labels
from tests.docs.pages import PROJECT

PAGE = PROJECT / "docs/containerd.md"
_HOLE = "\0"


def section(title: str) -> str:
    """The text below a heading."""
    return PAGE.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def said() -> list[str]:
    """Every text in the doctor's checks of the engine, with a hole for each value."""
    found = []
    for module in (engine, labels):
        for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (str(part.value) if isinstance(part, ast.Constant) else _HOLE for part in node.values)
                found.append("".join(parts))
    return found


def test_common_mistakes_are_in_the_doctors_words() -> None:
    """Each quotation in the first column is part of a text of the doctor's."""
    texts = [text.replace(f"{_HOLE} = ", f"{labels._EXPORT} = ") for text in said()]
    texts = [re.sub(r"(is of version )\0", r"\g<1>3", text).replace(f"lacks {_HOLE}", "lacks") for text in texts]
    rows = re.findall(r"^\| (`.*?) \| .* \| .* \|$", section("Common mistakes"), re.MULTILINE)
    assert len(rows) == 12
    for quotation in (part for row in rows for part in re.findall(r"`([^`]+)`", row)):
        assert any(quotation in text for text in texts), quotation


def test_quotations_elsewhere_are_the_doctors_words() -> None:
    """What stands in quotation marks is said by the doctor, kubelet's and containerd's own words among it."""
    texts = "\n".join(said()).replace(_HOLE, "X")
    quoted = re.findall(
        r'(?<![=\w`\[(] )"([^"`]{12,})"', re.sub(r"```.*?```|`[^`\n]*`", "`", PAGE.read_text(), flags=re.S)
    )
    assert quoted
    for text in quoted:
        words = re.sub(r"\d+\.\d+\.\d+|cvmfs-snapshotter", "X", " ".join(text.split()))
        assert words in texts, text
