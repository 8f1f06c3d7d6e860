"""`leases`: what a node tells of the layers that it uses, and that a publisher's side understands it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from cvmfsrepo.leases import parse_leases
from tests.cli.commands import told

CONFIG = Path(__file__).resolve().parents[2] / "config"
UNITS = [
    f"{name}.{kind}"
    for name in ("cvmfs-snapshotter-leases", "cvmfs-publisher-collect")
    for kind in ("service", "timer")
]


@pytest.mark.slow
def test_the_layers_of_all_snapshots(tmp_path: Path) -> None:
    """Of the running daemon, and of the records once it has stopped: the same, readable by all."""
    target = tmp_path / "n1.json"
    with told(tmp_path) as node:
        said = node("leases", "--output", str(target), "--node", "n1")
        (lease,) = parse_leases(target.read_bytes(), str(target))
        node.daemon.stop()
        stopped = node("leases", "--json")
    assert (said.status, said.out) == (0, f"n1 uses 2 layers: {target}\n")
    assert lease.node == "n1"
    assert set(lease.digests) == set(node.layers)
    assert target.stat().st_mode & 0o777 == 0o644
    assert stopped.json["digests"] == sorted(map(str, node.layers))
    assert [path.name for path in tmp_path.glob("*.json")] == ["n1.json"]


@pytest.mark.slow
def test_a_place_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """And says so in one line."""
    with told(tmp_path) as node:
        said = node("leases", "--output", str(tmp_path / "none" / "x.json"))
    assert said.status == 1
    assert "cannot be written (No such file or directory)" in said.err


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_understands_the_units(tmp_path: Path, unit: str) -> None:
    """Every key and value, without a warning."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze: install systemd")
    for name in UNITS:
        text = (CONFIG / name).read_text()
        for command in ("cvmfs-snapshotter", "cvmfs-publisher"):
            text = text.replace(f"/usr/bin/{command}", "/bin/true")
        (tmp_path / name).write_text(text)
    done = subprocess.run([program, "verify", str(tmp_path / unit)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
