"""What the bench makes of its numbers; the measuring itself is `make bench`."""

from pathlib import Path

import msgspec
import pytest

from tests.bench import report
from tests.bench.samples import Row, Samples, Target

CYCLE = Row("cycle", target=Target(ratio=1.1))
MEMORY = Row("memory", "B", Target(value=80e6))
LIST = Row("list")
MACHINE = report.Machine("2024-01-01", "a processor", 2, "6.1", 0.5)


def measured() -> Samples:
    samples = Samples()
    for overlayfs, ours in ((0.001, 0.002), (0.010, 0.010), (0.004, 0.002)):
        samples.add(CYCLE, "overlayfs", overlayfs)
        samples.add(CYCLE, "ours", ours)
    samples.add(MEMORY, "ours", 90e6)
    return samples


def test_the_ratio_is_that_of_the_rounds() -> None:
    """Each round has a ratio, and their median counts: a slow hour of the machine does not."""
    cycle, memory = measured().results([CYCLE, MEMORY, LIST])
    assert (cycle.peer, cycle.ours, cycle.ratio, cycle.reached) == (0.004, 0.002, 1.0, True)
    assert (memory.peer, memory.ours, memory.ratio, memory.reached) == (None, 90e6, None, False)


def test_a_row_without_a_target_reaches_nothing() -> None:
    """It is neither reached nor missed."""
    samples = Samples()
    samples.add(LIST, "ours", 1.0)
    (result,) = samples.results([LIST])
    assert result.reached is None


def test_the_table_replaces_the_last_one(tmp_path: Path) -> None:
    """Only what stands between the markers changes, however often."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    text = report.markdown(measured().results([CYCLE, MEMORY]), MACHINE)
    for _ in range(2):
        report.replace_table(page, text)
    content = page.read_text()
    assert content.startswith(f"before\n{report.BEGIN}\n2024-01-01, ")
    assert content.endswith(f"\n{report.END}\nafter\n")
    assert "| cycle | 4 ms | 2 ms | 1.00 | ≤ 1.1 | yes |" in content
    assert "| memory | – | 90 MB | – | ≤ 80 MB | no |" in content
    assert "old" not in content


def test_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    """It is refused, with the markers that it needs."""
    page = tmp_path / "page.md"
    page.write_text("text\n")
    with pytest.raises(ValueError, match="measured: begin"):
        report.replace_table(page, "table")
    assert page.read_text() == "text\n"


def test_json_has_the_numbers_unrounded() -> None:
    """For machines: seconds and bytes."""
    document = msgspec.json.decode(report.as_json(measured().results([CYCLE, MEMORY]), MACHINE))
    assert document["machine"]["cores"] == 2
    assert document["rows"][0]["ours"] == 0.002
    assert document["rows"][1]["target"] == {"ratio": None, "value": 80e6}
