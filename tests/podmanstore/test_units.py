"""The files of config/ that are about the store."""

import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from podmanstore.cli import INCOMPLETE, STORE, UNANSWERED, storage_conf
from podmanstore.values import Mount

CONFIG = Path(__file__).resolve().parents[2] / "config"
SERVICE, TIMER = CONFIG / "cvmfs-podmanstore.service", CONFIG / "cvmfs-podmanstore.timer"


def test_the_snippet_is_what_the_command_prints() -> None:
    """Byte for byte, but for comments; the comments' lines are those for old podmans and for fuse-overlayfs."""
    text = (CONFIG / "storage.conf").read_text()
    assert tomllib.loads(text) == tomllib.loads(storage_conf(STORE))
    opened = "\n".join(line.removeprefix("# ") if "[" in line or " = " in line else line for line in text.splitlines())
    printed = storage_conf(STORE, Mount.FUSE).replace("# graphroot", "graphroot").replace("# runroot", "runroot")
    assert tomllib.loads(opened) == tomllib.loads(printed)


def test_systemd_understands_the_units(tmp_path: Path) -> None:
    """Every key and value, without a warning."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze: install systemd")
    for unit in (SERVICE, TIMER):
        text = unit.read_text().replace("/usr/bin/cvmfs-podmanstore", "/bin/true")  # it is not installed here
        (tmp_path / unit.name).write_text(text)
    for unit in (SERVICE, TIMER):
        done = subprocess.run([program, "verify", str(tmp_path / unit.name)], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


def test_an_outage_is_no_failure_of_the_unit() -> None:
    """Nor are images that are left out: the statuses are the command's, and the timer starts it again."""
    text = SERVICE.read_text()
    assert f"SuccessExitStatus={INCOMPLETE} {UNANSWERED}\n" in text
    assert f"StateDirectory={STORE.name}\n" in text
    assert Path("/var/lib") == STORE.parent
    assert "OnUnitInactiveSec=" in TIMER.read_text()
