"""What the demo says of a machine that cannot run it."""

from pathlib import Path

import pytest

from tests.demo import preflight


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A system that has what is asked for."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/filesystems").write_text("nodev\toverlay\n")
    keyring = tmp_path / "usr/share/keyrings/debian-archive-keyring.gpg"
    keyring.parent.mkdir(parents=True)
    keyring.touch()
    return tmp_path


@pytest.fixture(autouse=True)
def _able(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(preflight, "SPACE", 0)


def test_an_able_machine_has_no_problem(system: Path) -> None:
    """Root on a Debian with overlayfs."""
    assert list(preflight.problems(Path.cwd(), system)) == []


def test_not_root(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The remedy is the command to type."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    (problem,) = preflight.problems(Path.cwd(), system)
    assert problem.startswith("not root")
    assert problem.endswith("sudo make demo")


def test_another_distribution(system: Path) -> None:
    """Debian's keyring tells it from others that have apt."""
    (system / "usr/share/keyrings/debian-archive-keyring.gpg").unlink()
    assert ["not Debian" in problem for problem in preflight.problems(Path.cwd(), system)] == [True]


def test_no_overlayfs(system: Path) -> None:
    """Neither built in nor loaded."""
    (system / "proc/filesystems").write_text("ext4\n")
    assert list(preflight.problems(Path.cwd(), system)) == ["no overlayfs in the kernel: modprobe overlay"]


def test_an_old_kernel(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both numbers count, and suffixes of distributions do not matter."""
    monkeypatch.setattr("platform.release", lambda: "5.4.0-150-generic")
    assert ["kernel 5.4.0-150-generic is old" in p for p in preflight.problems(Path.cwd(), system)] == [True]
    monkeypatch.setattr("platform.release", lambda: "6.1.0-13-amd64")
    assert list(preflight.problems(Path.cwd(), system)) == []


def test_no_space(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything is fetched."""
    monkeypatch.setattr(preflight, "SPACE", 1 << 60)
    assert ["GiB" in problem for problem in preflight.problems(Path.cwd(), system)] == [True]
