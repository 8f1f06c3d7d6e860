"""The publisher's systemd units: systemd understands them, and they are confined as far as publishing allows."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.privilege.booted import Service, booted
from tests.snapshotter.nodes import eventually

CONFIG = Path(__file__).resolve().parents[2] / "config"
UNITS = ["cvmfs-publisher-collect.service", "cvmfs-publisher-listen.service", "cvmfs-publisher-watch.service"]
DROP_IN = "cvmfs-publisher-directory.conf"
HIGHEST, CONFINED = 57, 30
"""systemd's exposure, times ten: with cvmfs_server, which mounts for the host, and without."""


@pytest.fixture
def analyze() -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze: install systemd")
    return program


def placed(directory: Path, unit: str, with_drop_in: bool) -> Path:
    """The unit with a program that is installed here."""
    path = directory / unit
    path.write_text((CONFIG / unit).read_text().replace("/usr/bin/cvmfs-publisher", "/bin/true"))
    if with_drop_in:
        (directory / f"{unit}.d").mkdir()
        shutil.copy(CONFIG / DROP_IN, directory / f"{unit}.d")
    return path


@pytest.mark.parametrize("with_drop_in", [False, True])
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_understands_it(analyze: str, tmp_path: Path, unit: str, with_drop_in: bool) -> None:
    """Every key and value, without a warning."""
    path = placed(tmp_path, unit, with_drop_in)
    done = subprocess.run([analyze, "verify", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("with_drop_in", "threshold"), [(False, HIGHEST), (True, CONFINED)])
@pytest.mark.parametrize("unit", UNITS)
def test_its_exposure(analyze: str, tmp_path: Path, unit: str, with_drop_in: bool, threshold: int) -> None:
    """systemd's own measure."""
    path = placed(tmp_path, unit, with_drop_in)
    words = [analyze, "security", "--offline=true", "--no-pager", f"--threshold={threshold}", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze has no --offline: systemd 250 or newer")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("unit", UNITS)
def test_what_must_not_be_hardened_is_not(unit: str) -> None:
    """Mounts of cvmfs_server must be seen by the host, and images hold setuid files, owners and devices."""
    keys = {line.split("=")[0] for line in (CONFIG / unit).read_text().splitlines() if "=" in line}
    own_mounts = {"ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateMounts", "PrivateDevices", "ReadWritePaths"}
    assert keys.isdisjoint({*own_mounts, "RestrictSUIDSGID", "PrivateUsers", "User", "DynamicUser"})
    drop_in = {line.split("=")[0] for line in (CONFIG / DROP_IN).read_text().splitlines() if "=" in line}
    assert drop_in.isdisjoint({"RestrictSUIDSGID", "PrivateUsers", "PrivateDevices", "User", "DynamicUser"})


@pytest.mark.root
def test_a_reload_while_watch_starts() -> None:
    """The signal ends what does not listen to it yet, as any other program, and systemd takes that for a wanted end: it
    is started again all the same."""
    unit = CONFIG / "cvmfs-publisher-watch.service"
    starting = Service(unit, ("http.server", "0", "--bind", "127.0.0.1"), "Serving")
    quick = "[Service]\nRestartSec=0\nEnvironment=PYTHONUNBUFFERED=1\n"
    with booted(service=starting, drop_in=quick) as node:
        node.systemctl("kill", "--signal=HUP")
        eventually(lambda: node.systemctl("show", "-p", "NRestarts") == "NRestarts=1\n", 60)
