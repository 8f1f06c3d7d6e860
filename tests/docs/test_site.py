"""The site is the pages of a checkout; a link that leads nowhere breaks its build."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import PROJECT
from tools.site import in_site


@pytest.mark.parametrize(
    ("folder", "link", "expected"),
    [
        ("", "docs/podman.md", "podman.md"),
        ("", "docs/metrics.md#user-namespaces", "metrics.md#user-namespaces"),
        ("", "config/config.toml", "config/config.toml"),
        ("docs", "../config/grafana.json", "config/grafana.json"),
        ("docs", "../ARCHITECTURE.md", "architecture.md"),
        ("docs", "../README.md", "index.md"),
        ("docs", "failures.md", "failures.md"),
        ("docs", "#here", "#here"),
        ("docs", "https://example.org/a.md", "https://example.org/a.md"),
        ("docs", "../../outside.md", "../../outside.md"),
    ],
)
def test_links_are_turned(folder: str, link: str, expected: str) -> None:
    """From where the page stands in a checkout to where it stands in the site."""
    assert in_site(f"see [it]({link}).", folder) == f"see [it]({expected})."


def _build(project: Path, site: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    project = tmp_path / "project"
    shutil.copytree(PROJECT / "docs", project / "docs")
    shutil.copytree(PROJECT / "config", project / "config")
    shutil.copytree(PROJECT / "tools", project / "tools")
    for path in (*PROJECT.glob("*.md"), PROJECT / "mkdocs.yml"):
        shutil.copy(path, project)
    return project


@pytest.mark.slow
def test_the_site_is_built(copy: Path, tmp_path: Path) -> None:
    """Every page, and the files that they lead to; nothing is asked of another host."""
    done = _build(copy, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    for name in ("index.html", "operations.html", "architecture.html", "config/config.toml", "config/grafana.json"):
        assert (tmp_path / "site" / name).is_file(), name
    assert _asked_hosts(tmp_path / "site") == set()


def _asked_hosts(site: Path) -> set[str]:
    """Of scripts, styles, fonts and pictures; what a reader has to click is another matter."""
    loaded = re.compile(r'<(?:script|img|iframe|source|link)\b[^>]*?(?:src|href)="(?:https?:)?//([^"/]+)')
    styled = re.compile(r"(?:url\(|@import )[\"']?(?:https?:)?//([^/\"')]+)")
    pages = {host for page in site.rglob("*.html") for host in loaded.findall(page.read_text())}
    return pages | {host for sheet in site.rglob("*.css") for host in styled.findall(sheet.read_text())}


def test_make_builds_it_as_the_tests_do() -> None:
    """Strict, and aloud: told to be quiet, mkdocs does not count its warnings, and ends well whatever it finds."""
    lines = [line for line in (PROJECT / "Makefile").read_text().splitlines() if "mkdocs build" in line]
    assert len(lines) == 2
    for line in lines:
        assert "--strict" in line
        assert "quiet" not in line
        assert " -q" not in line


@pytest.mark.slow
@pytest.mark.parametrize(
    "link", ["nowhere.md", "../config/nowhere.toml", "failures.md#nothing-of-this-name", "../src/"]
)
def test_a_link_that_leads_nowhere_is_noticed(copy: Path, tmp_path: Path, link: str) -> None:
    """The build ends with an error that names it."""
    page = copy / "docs/failures.md"
    page.write_text(page.read_text() + f"\n[it]({link})\n")
    done = _build(copy, tmp_path / "site")
    assert done.returncode != 0
    assert link.rsplit("/", 1)[-1].split("#")[-1] in done.stderr
