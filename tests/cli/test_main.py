"""The command line as a whole: help, usage, completion."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from snapshotter.cli import main
from tests.cli.commands import command


def test_help_lists_every_command() -> None:
    """Each with a line of its own, and the exit status that all share."""
    said = command("--help")
    assert said.status == 0
    for name, line in main.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(line)}$", said.out, re.MULTILINE), name
    assert "3 no" in said.out


def test_help_imports_no_command() -> None:
    """grpc, rich and the commands are slow to import: --help is there at once."""
    program = (
        "import sys\nfrom snapshotter.cli.main import main\n"
        "try: main()\nfinally: print([m for m in ('grpc', 'rich', 'snapshotter.server') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("name", main.COMMANDS)
def test_each_command_explains_itself(name: str) -> None:
    """Its help says what it does, gives an example, and has the common options."""
    found = main.cli.get_command(click.Context(main.cli), name)
    assert found is not None
    assert found.name == name
    said = command(name, "--help")
    assert said.status == 0
    if name not in ("serve", "config", "node-labels"):
        assert re.search(r"Examples?\b", said.out), said.out
    if name not in ("serve", "config", "node-labels", "completion"):
        assert "--json" in said.out
        assert "--config" in said.out


@pytest.mark.parametrize("arguments", [("nonsense",), ("status", "--nonsense"), ("explain",)])
def test_what_is_not_understood_is_exit_status_2(arguments: tuple[str, ...]) -> None:
    """And says so on standard error."""
    said = command(*arguments)
    assert (said.status, said.out) == (2, "")
    assert "Usage:" in said.err


def test_an_error_is_one_line_and_exit_status_1(tmp_path: Path) -> None:
    """No traceback, and nothing on standard output, where JSON is read."""
    said = command("snapshots", "--json", "--root", str(tmp_path / "none"), "--address", str(tmp_path / "s"))
    assert (said.status, said.out) == (1, "")
    assert re.fullmatch(r"error: state '.*/none': has no database: .*\n", said.err)


def test_a_bad_configuration_is_refused(tmp_path: Path) -> None:
    """Commands read the daemon's file, and are as strict as it is."""
    (tmp_path / "config.toml").write_text("nonsense = 1\n")
    said = command("status", "--config", str(tmp_path / "config.toml"))
    assert said.status == 1
    assert "nonsense" in said.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_for_the_shell(shell: str) -> None:
    """That asks this command for its words."""
    said = command("completion", shell)
    assert said.status == 0
    assert "_CVMFS_SNAPSHOTTER_COMPLETE" in said.out
    assert "cvmfs-snapshotter" in said.out


@pytest.mark.slow
def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    """The script is loaded by a real bash, and its function called as bash does."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    program = tmp_path / "cvmfs-snapshotter"
    program.write_text(f"#!{sys.executable}\nfrom snapshotter.cli.main import main\nmain()\n")
    program.chmod(0o755)
    (tmp_path / "script").write_text(command("completion", "bash").out)

    def completed(*words: str) -> list[str]:
        asked = " ".join(f"'{word}'" for word in ("cvmfs-snapshotter", *words))
        call = f"COMP_WORDS=({asked}); COMP_CWORD={len(words)}; _cvmfs_snapshotter_completion cvmfs-snapshotter"
        text = f". {tmp_path}/script; {call}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        search = f"{tmp_path}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": search, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run([bash, "-c", text], capture_output=True, text=True, check=True, env=environment)
        return done.stdout.split()

    assert completed("sta") == ["status"]
    assert "--json" in completed("status", "--j")
    assert {"serve", "explain", "wait-for"} <= set(completed(""))
