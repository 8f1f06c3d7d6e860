"""A published image against its source: everything that is not as the image has it is told, and nothing is changed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from cvmfsrepo.digest import Digest
from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Reference
from publisher.cli.main import command
from publisher.opening import open_source
from publisher.publishing.form import Form, Order
from publisher.publishing.verify import Finding, verify
from tests.cvmfsserver.fixture import cvmfs_repository
from tests.images.ocilayout import Image, write_image
from tests.images.tarlayer import Dir, File, Hardlink, Opaque, Whiteout, layer_tar
from tests.publisher.publishing import AMD64, publish, state

pytestmark = pytest.mark.root

REF = "registry.example/group/image:1"


@pytest.fixture
def image(tmp_path: Path) -> Image:
    base = [Dir("d"), File("d/gone", b"x"), File("once", b"one", mode=0o4755, uid=5), Hardlink("again", "once")]
    top = [Whiteout("d/gone"), Dir("o"), Opaque("o"), File("o/new", b"new")]
    return write_image(tmp_path / "image", [layer_tar(base), layer_tar(top)], REF)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "repository").mkdir()
    return tmp_path / "repository"


def look(image: Image, root: Path) -> list[Finding]:
    return list(verify(Order(open_source(image.source, AMD64)), Layout(root)))


@pytest.mark.parametrize("form", [Form(), Form(notation=Form().notation.OCI)], ids=["overlay", "oci"])
def test_a_published_image_is_right(image: Image, repository: Path, form: Form) -> None:
    """In each notation; looking changes nothing."""
    publish(image, repository, form)
    before = state(repository)
    assert look(image, repository) == []
    assert state(repository) == before


def _content(layout: Layout, image: Image) -> None:
    (layout.layerfs(Digest.parse(image.layers[1])) / "o/new").write_bytes(b"old")


def _mode(layout: Layout, image: Image) -> None:
    (layout.layerfs(Digest.parse(image.layers[0])) / "once").chmod(0o755)


def _gone(layout: Layout, image: Image) -> None:
    (layout.layerfs(Digest.parse(image.layers[1])) / "d/gone").unlink()


def _config(layout: Layout, image: Image) -> None:
    layout.blob(Digest.parse(image.config)).write_bytes(b"{}")


def _pointer(layout: Layout, image: Image) -> None:
    layout.image_pointer(Reference.parse(image.ref)).unlink()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_content, "/o/new: content"),
        (_mode, "/once: mode"),
        (_gone, "/d/gone: missing"),
        (_config, "is not what its digest promises"),
        (_pointer, "the original manifest is not known"),
    ],
)
def test_what_is_wrong_is_told(
    image: Image, repository: Path, spoil: Callable[[Layout, Image], None], words: str
) -> None:
    """By the layer or the document, and the status of the command says so."""
    publish(image, repository)
    spoil(Layout(repository), image)
    found = [finding for finding in look(image, repository) if words in str(finding)]
    assert found
    assert not found[0].is_known
    done = CliRunner().invoke(command, ["verify", image.source, "--repository", str(repository)])
    assert done.exit_code == 1
    assert "FAULT" in done.stdout


def test_an_image_that_is_not_there(image: Image, repository: Path) -> None:
    """Each layer is missing, and so is the name."""
    problems = [str(finding) for finding in look(image, repository)]
    assert sum("is not published" in problem for problem in problems) >= len(image.layers)


def test_what_cvmfs_loses_is_no_fault(image: Image, tmp_path: Path) -> None:
    """Hard links are files of their own there; the command says so and ends with 0."""
    with cvmfs_repository(tmp_path) as cvmfs:
        where = ["--cvmfs", "images.example.org", "--scratch", str(cvmfs.scratch), "--cvmfs-root", str(cvmfs.root)]
        where += ["--cvmfs-server", str(cvmfs.command)]
        assert CliRunner().invoke(command, ["image", image.source, *where]).exit_code == 0
        done = CliRunner().invoke(command, ["verify", image.source, *where])
    assert done.exit_code == 0, done.output
    assert "known" in done.stdout
    assert "0 faults, 2 known losses" in done.stdout
