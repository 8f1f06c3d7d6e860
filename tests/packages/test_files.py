"""What the files of debian/ repeat of the project is what the project says."""

import re
import tomllib
from pathlib import Path

from snapshotter.config import Config
from tests.packages.trees import PACKAGES, PYTHONS
from tests.standins import PROJECT

DEBIAN = PROJECT / "debian"
ABOUT = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]


def text(name: str) -> str:
    """Of a file of debian/."""
    return (DEBIAN / name).read_text()


def test_its_version_is_the_projects() -> None:
    """The newest entry of the changelog."""
    assert re.match(r"cvmfs-snapshotter \((\S+)\) ", text("changelog"))[1] == ABOUT["version"]  # type: ignore[index]


def test_it_depends_on_a_python_that_it_has_libraries_for() -> None:
    """None between, where Debian released none: there the program would not find itself."""
    (pythons,) = re.findall(r"^PYTHONS := (.*)$", text("rules"), re.MULTILINE)
    assert pythons.split() == list(PYTHONS.values())
    low, high = (tuple(map(int, version.split("."))) for version in pythons.split())
    bounds = [f"{relation} {major}.{minor}~" for (major, minor), relation in (
        (low, ">="), ((low[0], low[1] + 1), "<<"), (high, ">="), ((high[0], high[1] + 1), "<<"),
    )]  # fmt: skip
    expected = "python3 ({}), python3 ({}) | python3 ({}), python3 ({}),".format(*bounds)
    assert f"Depends: {expected} procps, ${{shlibs:Depends}}" in text("control")
    assert ABOUT["requires-python"] == f">={low[0]}.{low[1]}"


def test_units_start_programs_that_it_has() -> None:
    """Each unit's command is one of the project's, where the package puts it."""
    started = {
        program
        for unit in (PROJECT / "config").glob("*.service")
        for program in re.findall(r"^ExecStart=(\S+)", unit.read_text(), re.MULTILINE)
    }
    assert started == {f"/usr/bin/{name}" for name in ABOUT["scripts"]}


def test_units_reload_by_a_program_that_is_there() -> None:
    """`/bin/kill` is of a package that a small Debian has not."""
    reloads = {line for unit in (PROJECT / "config").glob("*.service") for line in _lines(unit) if "ExecReload" in line}
    assert {line.split("=")[1].split()[0] for line in reloads} == {"/bin/kill"}
    assert re.search(r"^Depends: .*\bprocps\b", text("control"), re.MULTILINE)


def test_no_unit_but_the_daemons_is_started() -> None:
    """A publisher writes into a repository, and a store is built of one: an administrator's wish, not a package's."""
    assert re.findall(r"^enabled := (.*)$", text("rules"), re.MULTILINE) == ["cvmfs-snapshotter.service"]
    assert "dh_installsystemd --no-enable --no-start $(others)" in text("rules")
    stopped = re.findall(r"cvmfs-[\w-]+\.(?:timer|service)", text("prerm"))
    enabled_by_hand = {p.name for p in (PROJECT / "config").iterdir() if "[Install]" in _lines(p)}
    assert {*stopped, "cvmfs-snapshotter.service"} == enabled_by_hand


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


def test_its_scripts_know_the_state() -> None:
    """Where it is by default; a state elsewhere is not a package's to remove."""
    for name in ("prerm", "postrm"):
        assert f"\nstate={Config().root}\n" in text(name)


def test_the_tool_builds_where_the_tests_do() -> None:
    """The tree that it makes for itself has what theirs has, and both have what debian/control asks for."""
    tool = (PROJECT / "tools" / "build-deb").read_text()
    assert re.findall(r"--include=(\S+)", tool) == [",".join(PACKAGES["build"])]
    (wanted,) = re.findall(r"^Build-Depends: (.*)$", text("control"), re.MULTILINE)
    assert re.findall(r"debhelper|python3[\w-]*", wanted) == list(PACKAGES["build"])
