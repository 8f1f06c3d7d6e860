"""`remove` and `collect` as they are typed: on the page, with their reports, statuses and errors."""

import json
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cvmfsrepo.digest import Digest
from cvmfsrepo.layout import Layout
from cvmfsrepo.leases import lease_of
from cvmfsrepo.oci import Reference
from publisher.cli.main import command
from publisher.publishing.form import Order, Refused, Terms
from publisher.publishing.publish import publish_images
from publisher.source import open_source
from tests.cvmfsserver.fixture import FQRN, Published, cvmfs_repository
from tests.docs.pages import typed as page_commands
from tests.images.ocilayout import Image, write_image
from tests.images.tarlayer import File, layer_tar
from tests.publisher.collecting.shelves import Shelf, layer_names
from tests.publisher.publishing import AMD64, run, state

pytestmark = pytest.mark.root

PAGE = "docs/publisher.md"
DAY = 86400.0


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def typed(shelf: Shelf, *words: str) -> Result:
    where = ["--repository", str(shelf.layout.root), "--state", str(shelf.directory / "state")]
    return CliRunner().invoke(command, [*words, *where])


def age(shelf: Shelf, days: float) -> None:
    """As if what is noted had been noted so much earlier."""
    memory = json.loads(shelf.memory.path.read_bytes())
    memory["since"] = {key: at - days * DAY for key, at in memory["since"].items()}
    shelf.memory.path.write_text(json.dumps(memory))


def test_the_page_is_true(shelf: Shelf) -> None:
    """Each of its commands ends with 0, in their order."""
    image = shelf.publish("image:1", "top")
    lines = [line for page, line in page_commands() if page == PAGE and line.split()[1] in ("remove", "collect")]
    (shelf.directory / "leases").mkdir()
    (shelf.directory / "leases/n1.json").write_bytes(lease_of("n1", 2_000_000_000, frozenset()).encode())
    (shelf.directory / "wished").write_text("registry.example/other:1\n")
    assert len(lines) == 5
    for line in lines:
        here = line.replace("registry.example.org/group/image:1", image.ref).replace("/srv/", f"{shelf.directory}/")
        words = shlex.split(here)
        done = CliRunner().invoke(command, [*words[1:], "--state", str(shelf.directory / "state")])
        assert done.exit_code == 0, f"{line}: {done.output}"


def test_removed_and_collected(shelf: Shelf) -> None:
    """From the name to the last byte, as a person reads it; real processes, and nothing of it in another place."""
    image = shelf.publish("gone:1", "top")
    where = ["--repository", str(shelf.layout.root), "--state", str(shelf.directory / "state")]
    removed = run("remove", image.ref, *where)
    assert removed.returncode == 0, removed.stderr
    assert f"withdrawn  {image.ref}" in removed.stdout
    assert re.search(rf"waits +layer +{layer_names(image)[0]} .* nothing leads to it any more", removed.stdout)
    assert "0 things with 0 B went; 4 with" in typed(shelf, "collect").output
    age(shelf, 8)
    before = state(shelf.directory)
    would = typed(shelf, "collect", "--dry-run").output
    assert re.search(r"goes +layer .* unreachable for 8\.0 days", would)
    assert "4 things with" in would
    assert "would go; 0 with 0 B wait" in would
    assert state(shelf.directory) == before
    done = json.loads(typed(shelf, "collect", "--json").output)
    assert {thing["fate"] for thing in done["things"]} == {"goes"}
    assert (len(done["things"]), done["publications"], done["dry_run"]) == (4, 1, False)
    assert shelf.has(image) == [False]


def test_leases_and_their_age(shelf: Shelf) -> None:
    """A live one keeps, an expired one is warned of, a bad one ends it with one line and status 1."""
    image, lease = shelf.publish("gone:1", "top"), shelf.directory / "n1.json"
    shelf.remove(image)
    options = ["collect", "--grace", "0", "--leases", str(lease)]
    lease.write_text("{")
    refused = typed(shelf, *options)
    assert (refused.exit_code, refused.output.count("\n")) == (1, 1)
    assert refused.output.startswith(f"error: lease '{lease}': does not parse")
    layers = frozenset({Digest.parse(image.layers[0])})
    lease.write_bytes(lease_of("n1", int(os.stat(lease).st_mtime), layers).encode())
    assert "leased by n1" in typed(shelf, *options).output
    assert shelf.has(image) == [True]
    lease.write_bytes(lease_of("n1", int(os.stat(lease).st_mtime - 15 * DAY), layers).encode())
    assert "warning: lease of node 'n1' is 15 days old" in typed(shelf, *options).output
    assert shelf.has(image) == [False]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["remove", "registry.example/none:1"], "error: image 'registry.example/none:1': is not published"),
        (["remove", "a b"], "error: image reference"),
        (["collect", "--expire", "x"], "error: expiry 'x'"),
        (["collect", "--wished", "/nowhere/list"], "error: /nowhere/list: No such file"),
    ],
)
def test_errors_are_one_line(shelf: Shelf, words: Sequence[str], problem: str) -> None:
    """And nothing is changed."""
    shelf.publish("kept:1", "base")
    before = state(shelf.directory)
    done = typed(shelf, *words)
    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert done.output.startswith(problem)
    assert state(shelf.directory) == before


@pytest.fixture
def cvmfs(tmp_path: Path) -> Iterator[Published]:
    with cvmfs_repository(tmp_path) as published:
        yield published


@pytest.mark.slow
def test_in_a_cvmfs_repository(cvmfs: Published, tmp_path: Path) -> None:
    """One publication for a withdrawal and one for a collection; the index tells the revision that is mounted."""
    images = [cvmfs_image(cvmfs, tmp_path, name) for name in ("kept", "gone")]
    where = ["--cvmfs", FQRN, "--cvmfs-root", str(cvmfs.root), "--cvmfs-server", str(cvmfs.command)]
    where += ["--scratch", str(cvmfs.scratch), "--state", str(tmp_path / "state")]
    before = cvmfs.revision
    for words in (["remove", images[1].ref], ["collect", "--grace", "0"], ["collect", "--grace", "0"]):
        done = CliRunner().invoke(command, [*words, *where])
        assert done.exit_code == 0, done.output
    assert cvmfs.revision == before + 2
    layout = Layout(cvmfs.root)
    assert not layout.layer(Digest.parse(images[1].layers[0])).exists()
    assert not layout.manifest_json(Reference.parse(images[1].ref)).exists()
    assert layout.layer(Digest.parse(images[0].layers[0])).is_dir()


def cvmfs_image(cvmfs: Published, directory: Path, name: str) -> Image:
    image = write_image(directory / name, [layer_tar([File(name, b"x")])], f"registry.example/{name}:1")
    terms = Terms(reserve=0)
    (outcome,) = publish_images(cvmfs.target, [Order(open_source(image.source, AMD64))], terms)
    assert not isinstance(outcome, Refused), outcome
    return image
