"""Publishing to CVMFS, on the stand-in of cvmfs_server: how many publications, what is lost, and what a
failure leaves."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmfsrepo import xattrs
from cvmfsrepo.compare import compare
from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError, FailedPrecondition, InvalidArgument, ResourceExhausted, Unavailable
from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Reference
from cvmfsrepo.tree import Entry, Notation, decode
from publisher.publishing.form import Form, Order, Report, Terms
from publisher.publishing.publish import publish_images
from publisher.source import open_source
from publisher.transactions.cvmfs import CvmfsTarget
from publisher.transactions.directory import DirectoryTarget
from tests.cvmfsserver.fixture import FQRN, Published, cvmfs_repository
from tests.images.nasty import ALL
from tests.images.nasty_entries import ODD_NAMES, file_capability
from tests.images.ocilayout import Image, write_image
from tests.images.tarlayer import Device, Dir, Fifo, File, Hardlink, Opaque, Symlink, Whiteout, layer_tar
from tests.mounting import PROJECT
from tests.publisher.publishing import AMD64, REF, command, make_image

pytestmark = pytest.mark.root

PLAIN = layer_tar([Dir("d"), File("d/x", b"x" * 5000), Symlink("link", "d/x")])
DELETING = layer_tar([Whiteout("d/x"), Dir("e", uid=5, mode=0o750), Opaque("e"), File("e/y", b"y")])


@pytest.fixture
def cvmfs(tmp_path: Path) -> Iterator[Published]:
    with cvmfs_repository(tmp_path) as published:
        yield published


def publish(cvmfs: Published, image: Image, form: Form | None = None, wait: float = 0) -> Report:
    order = Order(open_source(image.source, AMD64))
    (outcome,) = publish_images(cvmfs.target, [order], Terms(form or Form(), reserve=0, wait=wait))
    assert isinstance(outcome, Report), outcome
    return outcome


def announced(root: Path) -> bool:
    return Layout(root).manifest_json(Reference.parse(REF)).exists()


def test_an_image_without_deletions_is_one_publication(tmp_path: Path, cvmfs: Published) -> None:
    """And the same image again is none."""
    image = make_image(tmp_path / "image", PLAIN)
    assert publish(cvmfs, image).changed
    assert (cvmfs.revision, cvmfs.calls) == (1, ["transaction", "publish"])
    assert announced(cvmfs.root)
    assert not publish(cvmfs, image).changed
    assert cvmfs.revision == 1


@pytest.mark.parametrize("notation", list(Notation))
def test_an_image_with_deletions_is_announced_last(tmp_path: Path, cvmfs: Published, notation: Notation) -> None:
    """Content, deletions, announcements: nobody is led to a layer that would bring deleted files back."""
    image = make_image(tmp_path / "image", PLAIN, DELETING)
    publish(cvmfs, image, Form(notation))
    name = "x" if notation is Notation.OVERLAY else ".wh.x"
    gone = Layout(Path()).layerfs(Digest.parse(image.layers[1])) / "d" / name
    assert cvmfs.calls == ["transaction", "publish", "ingest", "transaction", "publish"]
    assert [os.path.lexists(cvmfs.at(number) / gone) for number in (1, 2, 3)] == [False, True, True]
    assert [announced(cvmfs.at(number)) for number in (1, 2, 3)] == [False, False, True]


def test_what_a_publication_keeps(tmp_path: Path, cvmfs: Published) -> None:
    """Every entry of the record is there as the record says it, but that hard links are files of their own and a
    long attribute is missing, which is told."""
    capability = {"security.capability": file_capability(13)}
    entries = [
        Dir("bin", mode=0o1777, uid=7), File("bin/su", b"su", mode=0o4755, gid=8),
        Hardlink("bin/su2", "bin/su", mode=0o4755, gid=8),
        File("bin/ping", b"ping", xattrs=capability), File("long", xattrs={"user.long": b"l" * 300}),
        Device("null"), Device("disk", block=True, major=8, minor=1), Fifo("fifo"),
        Symlink("old", "(overlay-whiteout)"), Whiteout("deleted"), Dir("odd"),
        *(File(f"odd/{name}", b"odd") for name in ODD_NAMES),
        *(Whiteout(f"gone/{name}") for name in ODD_NAMES if len(name) < 100),
    ]  # fmt: skip
    image = make_image(tmp_path / "image", layer_tar(entries))
    publish(cvmfs, image)
    layout, layer = Layout(cvmfs.root), Digest.parse(image.layers[0])
    record = decode(layout.tree_record(layer).read_bytes())
    root = os.fsencode(layout.layerfs(layer))
    for entry in record.entries:
        path = os.path.join(root, entry.path)
        status = os.lstat(path)
        assert (status.st_mode, status.st_uid, status.st_gid) == (entry.mode, entry.uid, entry.gid), entry.path
        assert entry.implied or int(status.st_mtime) == entry.mtime // 10**9, entry.path
        kept = {name: value for name, value in entry.xattrs.items() if len(value) <= 256}
        assert xattrs.read_all(path) == kept, entry.path
    for path in record.head.whiteouts:
        assert os.lstat(os.path.join(root, path)).st_rdev == 0
    assert os.readlink(root + b"/old") == b"(overlay-whiteout)"
    assert os.lstat(root + b"/bin/su2").st_nlink == 1
    assert len({entry.group for entry in record.entries if entry.path.startswith(b"bin/su")}) == 1
    (warning,) = cvmfs.warnings
    assert "/long" in warning


@pytest.mark.slow
def test_a_tree_begins_as_a_copy_of_its_base(cvmfs: Published) -> None:
    """Made by the server, in the same publication; a catalog is cut in it."""
    trees, told = cvmfs.root / "trees", list[bool]()
    for name, base in (("1", None), ("2", trees / "1"), ("3", trees / "1")):
        with cvmfs.target.begin() as transaction:
            transaction.add_tree(trees / name, lambda directory, copied: told.append(copied), base)
            transaction.cut_catalog(trees / name)
            transaction.show()
    assert (cvmfs.revision, told) == (3, [False, True, True])
    assert "transaction -T trees/1=trees/3 " in (cvmfs.state / "calls").read_text()
    assert (trees / "3/.cvmfscatalog").stat().st_mode & 0o777 == 0o644


def test_a_repository_without_attributes(tmp_path: Path) -> None:
    """It is published to, with a warning that says what is lost and what to set."""
    with cvmfs_repository(tmp_path, include_xattrs=False) as cvmfs:
        publish(cvmfs, make_image(tmp_path / "image", PLAIN))
        assert any("CVMFS_INCLUDE_XATTRS=true" in warning for warning in cvmfs.warnings)


@pytest.mark.slow
def test_another_s_transaction_is_left_alone(tmp_path: Path, cvmfs: Published) -> None:
    """Waiting for it is all that is done; what its owner wrote is there."""
    image = make_image(tmp_path / "image", PLAIN)
    assert cvmfs.run("transaction", FQRN).returncode == 0
    (cvmfs.root / "theirs").touch()
    with pytest.raises(Unavailable, match="already in a transaction"):
        publish(cvmfs, image)
    with pytest.raises(Unavailable, match="already in a transaction"):
        publish(cvmfs, image, wait=1)
    assert (cvmfs.root / "theirs").exists()
    assert "abort" not in cvmfs.calls
    cvmfs.run("publish", FQRN)
    publish(cvmfs, image)
    assert (cvmfs.root / "theirs").exists()


@pytest.mark.parametrize(
    ("faults", "error", "open_after"),
    [
        (["publish"], Unavailable, False),
        pytest.param(["full"], ResourceExhausted, False, marks=pytest.mark.slow),
        pytest.param(["publish", "abort"], Unavailable, True, marks=pytest.mark.slow),
        pytest.param(["ingest"], Unavailable, False, marks=pytest.mark.slow),
        pytest.param(["transaction"], Unavailable, False, marks=pytest.mark.slow),
    ],
)
def test_a_failed_publication(
    tmp_path: Path, cvmfs: Published, faults: list[str], error: type[ContractError], open_after: bool
) -> None:
    """The error is told, ours is aborted, nothing is announced, and the next run completes the image."""
    image = make_image(tmp_path / "image", PLAIN, DELETING)
    cvmfs.fail(*faults)
    with pytest.raises(error, match="No space" if "full" in faults else f"{faults[0]}: refused"):
        publish(cvmfs, image)
    assert (cvmfs.is_open, announced(cvmfs.root)) == (open_after, False)
    cvmfs.fail()
    publish(cvmfs, image)
    assert_complete(cvmfs, image)


def assert_complete(cvmfs: Published, image: Image) -> None:
    layerfs = Layout(cvmfs.root).layerfs(Digest.parse(image.layers[1]))
    assert announced(cvmfs.root)
    assert (layerfs / "d/x").lstat().st_rdev == 0
    assert not cvmfs.is_open
    left = {path.name for path in (cvmfs.scratch / FQRN).rglob("*")}
    assert left <= {"lock", "pending", "staging"}


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["publish", "ingest"])
@pytest.mark.parametrize("when", ["kill", "kill-after"])
def test_a_killed_run_is_finished_by_the_next(tmp_path: Path, cvmfs: Published, verb: str, when: str) -> None:
    """Whatever it had published, and whatever transaction it left open."""
    image = make_image(tmp_path / "image", PLAIN, DELETING)
    cvmfs.fail(f"{when}-{verb}")
    arguments = ["--cvmfs", FQRN, "--scratch", str(cvmfs.scratch), "--cvmfs-root", str(cvmfs.root)]
    words = command("image", image.source, *arguments, "--cvmfs-server", str(cvmfs.command))
    assert subprocess.run(words, cwd=PROJECT, timeout=120, capture_output=True).returncode == -signal.SIGKILL
    assert not announced(cvmfs.root)
    cvmfs.fail()
    publish(cvmfs, image)
    assert_complete(cvmfs, image)


@pytest.mark.slow
def test_a_run_that_is_killed_as_it_opens(tmp_path: Path, cvmfs: Published) -> None:
    """Its transaction cannot be told from another's: the next run refuses, and says how to end it."""
    image = make_image(tmp_path / "image", PLAIN)
    cvmfs.run("transaction", FQRN)
    (cvmfs.scratch / FQRN).mkdir(parents=True)
    (cvmfs.scratch / FQRN / "transaction").write_text(".cvmfs-publisher-0123")
    with pytest.raises(Unavailable, match=f"end it with cvmfs_server abort -f {FQRN}"):
        publish(cvmfs, image)
    assert cvmfs.run("abort", "-f", FQRN).returncode == 0
    assert publish(cvmfs, image).changed


@pytest.mark.slow
@pytest.mark.parametrize("ours", [True, False])
def test_a_transaction_that_is_open_after_a_killed_run(tmp_path: Path, cvmfs: Published, ours: bool) -> None:
    """It is aborted if it holds the file that the run put there; else somebody ended ours and opened another."""
    image = make_image(tmp_path / "image", PLAIN)
    (cvmfs.scratch / FQRN).mkdir(parents=True)
    (cvmfs.scratch / FQRN / "transaction").write_text(".cvmfs-publisher-0123")
    cvmfs.run("transaction", FQRN)
    (cvmfs.root / "left").touch()
    if ours:
        (cvmfs.root / ".cvmfs-publisher-0123").touch()
        publish(cvmfs, image)
        assert sorted(os.listdir(cvmfs.root)) == [".layers", ".metadata"]
    else:
        with pytest.raises(Unavailable, match="already in a transaction"):
            publish(cvmfs, image)
        assert (cvmfs.root / "left").exists()


def test_names_that_are_refused(tmp_path: Path) -> None:
    """What could be read as an option or by a shell, and a scratch directory in the repository."""
    for name in ("-rf", "a b", "x;y", "", "a/b"):
        with pytest.raises(InvalidArgument, match="is not the name of a CVMFS repository"):
            CvmfsTarget.of(name, tmp_path)
    with pytest.raises(InvalidArgument, match="lies in the repository"):
        CvmfsTarget.of(FQRN, tmp_path / "r/x", root=tmp_path / "r")


def test_a_machine_that_does_not_publish(tmp_path: Path, cvmfs: Published) -> None:
    """No command, or another repository: refused before anything is downloaded."""
    for fqrn, program in ((FQRN, "/does/not/exist"), ("elsewhere.example.org", str(cvmfs.command))):
        target = CvmfsTarget.of(fqrn, tmp_path / "scratch", root=cvmfs.root, command=program)
        with pytest.raises(FailedPrecondition), target.begin():
            pass


@pytest.mark.slow
def test_the_command_line(tmp_path: Path, cvmfs: Published) -> None:
    """Exactly one place to publish to; `--cvmfs` publishes there."""
    image = make_image(tmp_path / "image", PLAIN)
    words = ["--cvmfs", FQRN, "--scratch", str(cvmfs.scratch)]
    hidden = ["--cvmfs-root", str(cvmfs.root), "--cvmfs-server", str(cvmfs.command)]

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        whole = [sys.executable, "-m", "publisher.cli.main", "image", image.source, *arguments]
        return subprocess.run(whole, capture_output=True, text=True, timeout=120, cwd=PROJECT)

    assert "either --repository DIR or --cvmfs FQRN" in run().stderr
    assert run("--repository", str(tmp_path), *words, *hidden).returncode == 2
    done = run(*words, *hidden)
    assert (done.returncode, done.stderr) == (0, "")
    assert announced(cvmfs.root)


@pytest.mark.slow
@pytest.mark.parametrize("notation", list(Notation))
def test_all_nasty_layers(tmp_path: Path, cvmfs: Published, notation: Notation) -> None:
    """Published together, each is as in a plain directory: but for hard links, parts of seconds and long attributes
    nothing is lost."""
    orders = []
    for number, stack in enumerate(ALL.values()):
        image = write_image(tmp_path / "images" / str(number), stack.tars(), f"registry.example/nasty:{number}")
        orders.append(Order(open_source(image.source, AMD64)))
    (tmp_path / "plain").mkdir()
    terms = Terms(Form(notation), reserve=0)
    plain = publish_images(DirectoryTarget.at(tmp_path / "plain", durable=False), orders, terms)
    outcomes = publish_images(cvmfs.target, orders, terms)
    assert [type(outcome) for outcome in outcomes] == [type(outcome) for outcome in plain]
    assert cvmfs.revision == 3
    for expected in sorted((tmp_path / "plain/.layers").glob("*/*/layerfs")):
        found = cvmfs.root / expected.relative_to(tmp_path / "plain")
        assert compare(expected, found, ignore=is_known_loss) == [], expected


def is_known_loss(entry: Entry, field: str) -> bool:
    """Times are compared in whole seconds by another test."""
    return field in ("hard-links", "mtime") or (field == "xattrs" and any(len(v) > 256 for v in entry.xattrs.values()))
