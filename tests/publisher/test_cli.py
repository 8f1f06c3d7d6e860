"""The command `cvmfs-publisher`, run as a person runs it; killed, and run twice at a time."""

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import publisher.cli.main
from cvmfsrepo import compare
from cvmfsrepo.digest import Digest
from cvmfsrepo.layout import Layout
from tests.images.ocilayout import Image
from tests.images.tarlayer import Dir, File, layer_tar
from tests.publisher.publishing import command, make_image, make_repository, run, state
from tests.publisher.stub_registry import Stub, stub_registry

root = pytest.mark.root


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """A small layer and one of 6 MB that no compression makes small."""
    files = [Dir("d"), *(File(f"d/{number}", os.urandom(1 << 20)) for number in range(6))]
    return make_image(tmp_path / "image", layer_tar([File("small")]), layer_tar(files))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "repository")


@pytest.fixture
def stub(image: Image) -> Iterator[Stub]:
    with stub_registry(image) as running:
        yield running


@pytest.mark.slow
@root
def test_publishing_and_its_report(image: Image, repository: Path) -> None:
    """A few lines for people, a document for programs, nothing on stderr where it is no terminal."""
    done = run("image", image.source, "--repository", str(repository))
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 layers published" in done.stdout
    again = run("image", image.source, "--repository", str(repository), "--json")
    report = json.loads(again.stdout)
    assert (report["published"], report["present"], report["changed"]) == ([], list(image.layers), False)


@pytest.mark.parametrize(
    "words",
    [
        "watch r --interval nan",
        "wishlist r --wait inf",
        "listen --wait nan",
        "collect --grace nan",
        "remove i --wait x",
    ],
)
def test_seconds_and_days_are_numbers(words: str) -> None:
    """Passes without a pause between them, or a wait that never ends, are nobody's wish."""
    done = CliRunner().invoke(publisher.cli.main.command, words.split())
    assert done.exit_code == 2
    assert f"{words.split()[-1]!r} is not a" in done.output


@pytest.mark.slow
@root
def test_the_options(image: Image, repository: Path) -> None:
    """Name, notation, the form of an ingest, its owner, and no record."""
    done = run(
        "image", f"oci:{image.path}", "--repository", str(repository), "--name", "other.example/x:2",
        "--whiteouts", "oci", "--as-ingested", "--ingest-owner", "12:13", "--no-record", "--platform", "linux/amd64",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (repository / ".metadata/other.example/x:2/manifest.json").is_file()
    layer = Layout(repository).layer(Digest.parse(image.layers[1]))
    assert (layer / "layerfs/d/1").stat().st_uid == 12
    assert not (layer / ".metadata/tree.v1").exists()


@pytest.mark.slow
@root
@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["oci:/nowhere:x"], 1, "error: OCI layout '/nowhere:x': is not a directory"),
        (["{image}", "--as-ingested"], 1, "use the notation oci"),
        (["{image}", "--name", "UPPER/case"], 1, "is not HOST"),
        (["{image}", "--repository", "/nowhere"], 1, "is not a directory; make it first"),
        (["{image}", "--whiteouts", "aufs"], 2, "Usage:"),
        (["{image}", "--ingest-owner", "me"], 2, "UID:GID"),
        ([], 2, "Missing argument"),
    ],
)
def test_errors(image: Image, repository: Path, arguments: list[str], status: int, words: str) -> None:
    """One line with what to do and status 1; wrong usage is 2. Nothing is written."""
    given = [argument.format(image=image.source) for argument in arguments]
    done = run("image", "--repository", str(repository), *given)
    assert done.returncode == status
    assert words in done.stderr
    assert status == 2 or len(done.stderr.splitlines()) == 1
    assert not list(repository.rglob("manifest.json"))


def test_who_is_not_root_is_told_at_once(image: Image, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is read or written."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    done = CliRunner().invoke(publisher.cli.main.command, ["image", image.source, "--repository", str(repository)])
    assert done.exit_code == 1
    assert done.stderr == "error: layers hold owners, devices and attributes that only root can write: run with sudo\n"
    assert state(repository) == {}


@pytest.mark.slow
def test_help_and_version() -> None:
    """Both say what a person asks for."""
    assert "cvmfs-publisher" in run("--version").stdout
    text = run("image", "--help").stdout
    assert all(word in text for word in ("SOURCE", "oci:PATH[:REF]", "docker://", "--repository", "--whiteouts"))


@pytest.mark.slow
@root
def test_killed_in_the_middle_of_a_layer(stub: Stub, image: Image, repository: Path) -> None:
    """kill -9 while a layer is half unpacked: nothing is to be seen of the image; running again finishes it."""
    stub.behaviour.hold_after = 3 << 20
    arguments = ["image", stub.source, "--repository", str(repository)]
    with subprocess.Popen(command(*arguments), stderr=subprocess.DEVNULL) as killed:
        assert stub.behaviour.held.wait(60)
        killed.kill()
    assert killed.returncode == -signal.SIGKILL
    seen = state(repository)
    assert len(list(seen.pop("staged"))) == 2, "one layer whole, one half"
    assert seen == {}
    stub.behaviour.hold_after = None
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert state(repository)["staged"] == ()
    layerfs = Layout(repository).layerfs(Digest.parse(image.layers[1]))
    assert {entry.size for path, entry in compare.scan(layerfs).items() if path.startswith(b"d/")} == {1 << 20}


@pytest.mark.slow
@root
def test_interrupted_by_a_person(stub: Stub, repository: Path) -> None:
    """The staging area is cleared on the way out."""
    stub.behaviour.hold_after = 3 << 20
    with subprocess.Popen(
        command("image", stub.source, "--repository", str(repository)), stderr=subprocess.PIPE, text=True
    ) as interrupted:
        assert stub.behaviour.held.wait(60)
        interrupted.send_signal(signal.SIGINT)
        _, words = interrupted.communicate(timeout=60)
    assert interrupted.returncode == 1
    assert "Traceback" not in words
    assert state(repository) == {"staged": ()}


@pytest.mark.slow
@root
def test_two_publishers_at_once(stub: Stub, image: Image, repository: Path) -> None:
    """The second is told who holds the repository, and leaves the first one's work alone."""
    stub.behaviour.hold_after = 3 << 20
    with subprocess.Popen(
        command("image", stub.source, "--repository", str(repository)), stderr=subprocess.DEVNULL
    ) as first:
        assert stub.behaviour.held.wait(60)
        second = run("image", image.source, "--repository", str(repository))
        staged = state(repository)["staged"]
        first.terminate()
    assert second.returncode == 1
    assert f"is in use by another publisher, process {first.pid}; wait" in second.stderr
    assert len(list(staged)) == 2
    third = run("image", image.source, "--repository", str(repository))
    assert third.returncode == 0, third.stderr


@pytest.mark.slow
@root
def test_a_terminal_shows_progress(image: Image, repository: Path) -> None:
    """Bytes, rate and layers, on stderr only; stdout stays the report."""
    controller, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    arguments = command("image", image.source, "--repository", str(repository), "--json")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=terminal, env=environment) as running:
        os.close(terminal)
        seen = b""
        try:
            while piece := os.read(controller, 4096):
                seen += piece
        except OSError:  # EIO: the other end is closed
            pass
        report = json.loads(running.stdout.read() if running.stdout else b"")
    os.close(controller)
    assert running.returncode == 0
    assert report["changed"]
    assert b"2/2 layers" in seen
    assert b"MB" in seen
