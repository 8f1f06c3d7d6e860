"""What holds for every test: a need is a marker, what is missing is said, and no mount stays behind."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Two cores, shared with engines: a slow example is not a failed one. CI takes the same examples every time.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "default")
# The fast tier asks for it by pytest's --hypothesis-profile; tests/examples.py says what it is to a test with a number.
settings.register_profile("few", settings(), max_examples=20)


def fuse_problem() -> str:
    """Why no FUSE file system can be mounted here, or nothing."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse cannot be opened ({error.strerror}): load the fuse module, and run as root"
    return ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what cannot run on this machine, saying why; everything else has to run."""
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root: sudo make test")
    if item.get_closest_marker("fuse") and (problem := fuse_problem()):
        pytest.skip(f"needs FUSE: {problem}")


def mounts_below(directory: Path) -> list[str]:
    """Mount points below a directory, as the kernel spells them."""
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    return [point for point in (line.split()[4] for line in lines) if point.startswith(f"{directory}/")]


@pytest.fixture(scope="session", autouse=True)
def _no_mount_stays_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A mount that outlives its test holds files open, and the directory's clean-up would walk into it."""
    yield
    assert mounts_below(tmp_path_factory.getbasetemp()) == []


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory with a name short enough for a unix socket's path (108 bytes); tmp_path's need not be."""
    directory = Path(tempfile.mkdtemp(prefix="cv-", dir="/tmp"))
    yield directory
    shutil.rmtree(directory)
