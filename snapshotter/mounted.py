"""Which of our directories are mounted: what the kernel's mount tables say, of every process that can be seen."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

_ESCAPE = re.compile(r"\\([0-7]{3})")
_NUMBER = re.compile(r"([1-9]\d{0,14})/(?:fs|work|h|w)/?")
_OVERLAY_PATHS = ("lowerdir", "lowerdir+", "datadir+", "upperdir", "workdir")


def numbers_in_use(snapshots: Path, proc: Path = Path("/proc")) -> set[int]:
    """Numbers of the snapshot directories that any process has mounted."""
    device, tables = os.lstat(snapshots).st_dev, set[str]()
    for process in proc.iterdir():
        if process.name.isdigit():
            try:
                tables.add((process / "mountinfo").read_text(errors="surrogateescape"))
            except OSError:  # it ended
                continue
    return {number for table in tables for number in mounted_numbers(table, str(snapshots), device)}


def mounted_numbers(table: str, snapshots: str, device: int) -> Iterator[int]:
    """Numbers that one mount table names. Lower directories may be written relative to a directory that the table does
    not tell: those of an overlay whose upper directory is elsewhere are not ours, all others count as ours."""
    for line in table.splitlines():
        before, _, behind = line.partition(" - ")
        fields, (kind, *rest) = before.split(" "), behind.split(" ")
        if kind == "overlay" and rest:
            yield from _of_overlay(_unescaped(rest[-1]), snapshots)
        else:
            # Not every file system (btrfs) writes here the device that stat tells; then the path has to do.
            is_here = fields[2] == f"{os.major(device)}:{os.minor(device)}"
            end = "/snapshots/" if is_here else f"/{Path(snapshots).parent.name}/snapshots/"
            yield from _numbers([_unescaped(fields[3])], end)


def _of_overlay(options: str, snapshots: str) -> Iterator[int]:
    known: dict[str, list[str]] = {}
    for option in re.split(r"(?<!\\),", options):
        name, _, value = option.partition("=")
        if name in _OVERLAY_PATHS:
            known.setdefault(name, []).extend(re.split(r"(?<!\\):+", value))
    paths = [re.sub(r"\\(.)", r"\1", path) for of in known.values() for path in of]
    yield from _numbers(paths, f"{snapshots}/")
    uppers = known.get("upperdir", [])
    if not uppers or any(path.startswith(f"{snapshots}/") for path in uppers):
        yield from (int(found[1]) for path in paths if (found := _NUMBER.fullmatch(path)))


def _numbers(paths: Iterable[str], prefix: str) -> Iterator[int]:
    """Of paths that hold `prefix` and continue as ours do."""
    for path in paths:
        _, there, rest = path.rpartition(prefix)
        if there and (found := _NUMBER.match(rest)):
            yield int(found[1])


def _unescaped(text: str) -> str:
    """As the kernel writes blanks and backslashes in its tables."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)
