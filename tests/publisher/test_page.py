"""docs/publisher.md, typed in its order against a registry on loopback and a repository of the test. Its commands that
take something away are typed in tests/publisher/collecting/test_commands.py, the one that listens in
tests/publisher/listening/test_page.py."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from publisher.cli.main import command
from tests.cvmfsserver.fixture import Published, cvmfs_repository
from tests.docs.pages import walk_blocks
from tests.images.ocilayout import write_image
from tests.images.tarlayer import Dir, File, Hardlink, Whiteout, layer_tar
from tests.publisher.wishes.stub import Stub, running

pytestmark = pytest.mark.root

IMAGE, REPOSITORY = "registry.example.org/group/image:1", "/srv/repository"
COMMANDS = [
    line for block in walk_blocks() if block.page == "docs/publisher.md" and block.language == "sh"
    for line in block.commands if line.split()[1] not in ("remove", "collect", "listen")
]  # fmt: skip


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Stub]:
    base = layer_tar([Dir("d"), File("d/x", b"x"), File("once", b"1"), Hardlink("again", "once")])
    image = write_image(tmp_path / "image", [base, layer_tar([Whiteout("d/x")])], "registry.example/group/image:1")
    with running(Stub(images={"group/image:1": image})) as stub:
        yield stub


@pytest.fixture
def cvmfs(tmp_path: Path) -> Iterator[Published]:
    with cvmfs_repository(tmp_path) as published:
        yield published


def test_the_page_is_true(registry: Stub, cvmfs: Published, tmp_path: Path) -> None:
    """Each command ends with 0, and the image is there afterwards, with its flat tree."""
    repository = tmp_path / "repository"
    repository.mkdir()
    (tmp_path / "metrics").mkdir()
    assert len(COMMANDS) >= 3
    for line in COMMANDS:
        here = line.replace("registry.example.org", registry.address).replace(REPOSITORY, str(repository))
        words = shlex.split(here.replace("/srv/", f"{tmp_path}/"))
        assert words[0] == "cvmfs-publisher"
        if "--cvmfs" in words:
            words += ["--scratch", str(cvmfs.scratch), "--cvmfs-root", str(cvmfs.root)]
            words += ["--cvmfs-server", str(cvmfs.command)]
        done = CliRunner().invoke(command, words[1:])
        assert done.exit_code == 0, f"{line}: {done.output}"
    assert cvmfs.revision > 0
    assert (repository / registry.address / "group/image:1" / "again").is_file()
