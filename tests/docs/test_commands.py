"""Each command in the pages is run by a test, or stands here with the reason why it cannot be run."""

import contextlib
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import click
import pytest

from podmanstore.cli import command as podmanstore
from publisher.cli.main import command as publisher
from snapshotter.cli.main import cli as snapshotter
from tests.bench.__main__ import main as bench
from tests.docs.pages import PROJECT, page_paths, typed

OURS: Mapping[str, click.Command] = {
    "cvmfs-snapshotter": snapshotter,
    "cvmfs-podmanstore": podmanstore,
    "cvmfs-publisher": publisher,
}

_OWN_PATH = re.compile(r"`((?:snapshotter|publisher|podmanstore|cvmfsrepo|tests|tools|config)/[\w./-]+)`")

TYPED_WHOLE: Mapping[str, str] = {
    "docs/install.md": "tests/packages/test_page.py",
    "docs/operations.md": "tests/cli/test_operations.py",
    "docs/podman.md": "tests/podmanstore/real/test_page.py",
    "docs/publisher.md": "tests/publisher/test_page.py",
    "docs/security.md": "tests/docs/test_security_page.py",
}
"""Pages whose commands are read from the page itself and typed, with the test that does so."""

ELSEWHERE: Mapping[str, str] = {
    r"(sudo )?make (test|check)": ".ci/run",
    r"sudo make deb": "tests/packages/built.py",
    r"\.venv/bin/python -m build .*": "tests/test_packaging.py",
    r"make (demo|test-fast|protos|bench)": "tests/docs/test_commands.py",
    r"\.venv/bin/python -m tests\.bench .*": "tests/bench/__main__.py",
    r"cvmfs-publisher image docker://docker\.io/\S+ --repository \S+": "tests/publisher/test_cli.py",
    r"cvmfs-snapshotter serve --config \S+": "tests/snapshotter/daemon.py",
    r"cvmfs-podmanstore (build --repository \S+|config)": "tests/podmanstore/test_cli.py",
    r"cvmfs-snapshotter image \S+ \| tail -1": "docs/operations.md",
    r"(\.venv/bin/)?cvmfs-snapshotter config containerd( --containerd-version \S+)?": "tests/docs/test_containerd.py",
    r"tools/build-image \S+": "tests/kubernetes/imagebuild.py",
    r"ctr -n k8s\.io (images list|snapshots) .*": "tests/kubernetes/test_image.py",
}
"""Patterns of commands that a test runs with other words for hosts and paths, and which file says them."""

CANNOT_RUN: Mapping[str, str] = {
    r"journalctl -u cvmfs-snapshotter .*": "needs the journal of a node",
    r"kubectl .*": "needs a cluster; tests/kubernetes/test_manual.py holds the names in them to the manifests",
    r"buildah push \S+": "needs a registry of the reader's; tests/kubernetes/test_image.py pushes to one of its own",
}
"""Patterns of commands that no test runs, and why."""

INDENTED: Mapping[str, str] = {
    r"apptainer (run|exec) .*": "tests/publisher/flat/test_apptainer.py",
}
"""Commands in other blocks than those: their page's test types every fenced one, on a machine that has not what these
need; and which file has them."""

_HIDDEN = re.compile(
    r"^ {4,}((?:sudo|make|mount|cvmfs-\w+|kubectl|podman|ctr|systemctl|pip|apptainer) \S.*)$", re.MULTILINE
)
_MAKE = re.compile(r"make (\S+)")


def test_every_command_is_run_or_excused() -> None:
    """By its page, or by one pattern; and no pattern stands here for nothing."""
    used, left = set[str](), list[tuple[str, str]]()
    for page, line in typed():
        found = [p for p in (*ELSEWHERE, *CANNOT_RUN) if re.fullmatch(p, _bare(line))]
        used.update(found)
        if not found and page not in TYPED_WHOLE:
            left.append((page, line))
    assert left == []
    assert used == {*ELSEWHERE, *CANNOT_RUN}


def _bare(line: str) -> str:
    """Without a comment behind it."""
    return re.sub(r"\s+# .*$", "", line)


def test_the_tests_that_are_named_exist() -> None:
    """So that a test that moves takes its line along."""
    named = {
        word
        for reason in (*TYPED_WHOLE.values(), *ELSEWHERE.values(), *INDENTED.values())
        for word in re.findall(r"tests/\S+", reason)
    }
    assert [path for path in named if not (PROJECT / path).exists()] == []


@pytest.mark.parametrize("pattern", ELSEWHERE)
def test_the_file_that_is_named_says_the_command(pattern: str) -> None:
    """The subcommand and each option of every command that the pattern is for are words of that file: a test that types
    something else does not excuse it. One that reads what it types from the page (`typed`) says all of it."""
    text = (PROJECT / ELSEWHERE[pattern]).read_text()
    lines = {_bare(line) for page, line in typed() if page not in TYPED_WHOLE and re.fullmatch(pattern, _bare(line))}
    for line in lines if "typed(" not in text else ():
        words = line.split(" | ")[0].split()
        told = [word for word in words if word.startswith("--")]
        if words[0].rsplit("/", 1)[-1] in OURS:
            told += [word for word in words[1:3] if re.fullmatch(r"[a-z]+", word)]
        assert [word for word in told if word not in text] == [], line


@pytest.mark.parametrize("line", sorted({line for _, line in typed() if re.match("(sudo )?make ", line)}))
def test_targets_of_make_exist(line: str) -> None:
    """Each is one that the Makefile describes in its first lines and has."""
    (target,) = _MAKE.findall(_bare(line))
    text = (PROJECT / "Makefile").read_text()
    assert re.search(rf"^#   make {target} ", text, re.MULTILINE)
    assert re.search(rf"^{target}:", text, re.MULTILINE)


@pytest.mark.parametrize("line", [line for _, line in typed() if "tests.bench" in line])
def test_the_bench_is_spelled_right(line: str) -> None:
    """Options that it takes."""
    words = shlex.split(_bare(line))[3:]
    given = [str(PROJECT / word) if word.endswith(".md") else word for word in words]
    _parse(bench, "tests.bench", given)


def test_no_command_hides_in_an_indented_block() -> None:
    """The tests here see fenced blocks; so nothing that is typed stands in another kind of block."""
    hidden = list[tuple[str, str]]()
    for path in page_paths():
        prose = re.sub(r"^ *```.*?^ *```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
        found = _HIDDEN.findall(prose)
        hidden += [(path.name, line) for line in found if not any(re.fullmatch(each, line) for each in INDENTED)]
    assert hidden == []


@pytest.mark.parametrize("line", sorted({line for _, line in typed() if line.split()[0] in OURS and "$(" not in line}))
def test_our_commands_are_spelled_right(line: str) -> None:
    """Subcommand, options and their values are ones that the command takes."""
    words = shlex.split(re.split(r"\s(?:[|;&]|\d?>)", _bare(line))[0], comments=True)
    _parse(OURS[words[0]], words[0], words[1:])


def _parse(command: click.Command, name: str, words: list[str]) -> None:
    """Options and arguments as the command takes them; a group's first word is the command in it."""
    if isinstance(command, click.Group) and words and not words[0].startswith("-"):
        inner = command.get_command(click.Context(command), words[0])
        assert inner is not None, words[0]
        _parse(inner, words[0], words[1:])
        return
    with contextlib.suppress(click.exceptions.Exit):  # --help and --version say what they have to say
        command.make_context(name, list(words)).close()


def test_code_that_is_named_exists() -> None:
    """Paths of the project's own files in the pages, such as `cvmfsrepo/layout.py`, lead to a file."""
    missing = []
    for path in (*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md")):
        for name in re.findall(
            r"`((?:snapshotter|publisher|podmanstore|cvmfsrepo|tests|tools|config)/[\w./-]+)`", path.read_text()
        ):
            if not (PROJECT / name).exists():
                missing.append((Path(path).name, name))
    assert missing == []
