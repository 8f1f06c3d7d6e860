"""What is opened in a repository, on a kernel that opens a whole path in one call and on one that does not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cvmfsrepo.contained import opened_file

OPENAT2 = "437"


@pytest.fixture(params=["", OPENAT2], ids=["in one call", "name by name"])
def refused(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository, reached through a link, with links of its own that lead out of it and to what is inside."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("secret")
    inside = tmp_path / "inside"
    (inside / "a/b").mkdir(parents=True)
    (inside / "a/b/file").write_text("content")
    (inside / "file").write_text("top")
    (inside / "out").symlink_to("../outside")
    (inside / "a/within").symlink_to("b")
    (inside / "a/b/link").symlink_to("file")
    os.mkfifo(inside / "a/fifo")
    (tmp_path / "root").symlink_to("inside")
    return tmp_path / "root"


def opened(root: Path, refused: str, *paths: str) -> list[str]:
    command = [
        sys.executable,
        "-m",
        "tests.cvmfsrepo.refusing",
        str(root),
        refused,
        *(f"{root}/{path}" for path in paths),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


def test_what_is_there(root: Path, refused: str) -> None:
    """Files and directories, however deep; the root itself may be a link."""
    assert opened(root, refused, "file", "a/b/file", "a/b") == ["top", "content", "file link"]


def test_no_link_is_followed(root: Path, refused: str) -> None:
    """Whether it leads out or not, on the way and at the end."""
    assert opened(root, refused, "out/file", "a/within/file", "a/b/link") == ["ELOOP", "ELOOP", "DataLoss"]


def test_what_cannot_be_opened(root: Path, refused: str) -> None:
    """Is told as the kernel tells it; a pipe is not waited for, and a path elsewhere is a mistake of ours."""
    assert opened(root, refused, "none/file", "file/below", "a/fifo") == ["ENOENT", "ENOTDIR", "DataLoss"]
    assert opened(root, refused, "../outside/file", "a/../file") == ["ValueError", "ValueError"]


def test_a_path_with_a_nul(root: Path) -> None:
    """Is none: what stands before the NUL is not what was asked for."""
    with pytest.raises(ValueError, match="NUL"), opened_file(root, root / "a/b\0c/file"):
        pass
