"""What the files of debian/ repeat of the project is what the project says."""

import platform
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from snapshotter.config import Config
from tests.packages.trees import PACKAGES, PYTHONS
from tests.standins import PROJECT

DEBIAN = PROJECT / "debian"
TOOL = PROJECT / "tools" / "build-deb"
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
    """The tree that it makes for itself has what debian/control asks for, and so has theirs, and what looks the package
    over."""
    (included,) = re.findall(r"--include=(\S+)", TOOL.read_text())
    (wanted,) = re.findall(r"^Build-Depends: (.*)$", text("control"), re.MULTILINE)
    assert re.findall(r"debhelper|python3[\w-]*", wanted) == included.split(",")
    assert PACKAGES["build"] == (*included.split(","), "lintian")


ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def test_it_is_for_the_architectures_that_the_tool_knows() -> None:
    """No other is promised."""
    assert re.findall(r"^Architecture: (.*)$", text("control"), re.MULTILINE) == [" ".join(ARCHITECTURES.values())]
    assert dict(re.findall(r"^(\w+)\) architecture=(\w+) ;;$", TOOL.read_text(), re.MULTILINE)) == ARCHITECTURES


@pytest.mark.skipif(platform.machine() not in ARCHITECTURES, reason="no package is built on such a machine")
def test_it_is_not_built_for_another_architecture(tmp_path: Path) -> None:
    """A tree of one is refused, and nothing is fetched: the libraries would be this machine's."""
    here = ARCHITECTURES[platform.machine()]
    (other,) = set(ARCHITECTURES.values()) - {here}
    (tmp_path / "tree/var/lib/dpkg").mkdir(parents=True)
    status = "Package: {}\nStatus: install ok installed\nArchitecture: {}\n\n"
    packages = [("adduser", "all"), ("dpkg", other), ("gcc", here)]
    (tmp_path / "tree/var/lib/dpkg/status").write_text("".join(status.format(*package) for package in packages))
    command = [str(TOOL), "--tree", str(tmp_path / "tree"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"is a Debian for '{other}', and this machine is {here}" in done.stderr
    assert not (tmp_path / "out").exists()
