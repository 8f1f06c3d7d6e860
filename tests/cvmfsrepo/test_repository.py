"""What is in a repository, and what is not: absent, away, unreadable and damaged are never mixed up."""

import ctypes
import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss, InvalidArgument, NotFound
from cvmfsrepo.layout import Layout, diff_id_target
from cvmfsrepo.oci import Reference
from cvmfsrepo.outline import Source
from cvmfsrepo.reasons import Reason
from cvmfsrepo.repository import Layer, Missing, Repository, deadline_in
from cvmfsrepo.tree import Entry, Notation, encode, make_record
from cvmfsrepo.whiteouts import Markers

LAYER, OTHER, DIFF_ID = Digest("a" * 64), Digest("b" * 64), Digest("d" * 64)
MANIFEST = {"Config": {"Digest": str(OTHER), "Size": 1}, "Layers": [{"Digest": str(LAYER), "Size": 2}]}
NOBODY = 65534


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository that holds LAYER, with one file."""
    made = Repository("cat.example.org", Layout(tmp_path / "repo"))
    made.layout.layerfs(LAYER).mkdir(parents=True)
    (made.layout.layerfs(LAYER) / "file").touch()
    made.layout.metadata.mkdir()
    return made


def missing(found: Layer | Missing) -> Missing:
    assert isinstance(found, Missing)
    return found


def write(path: Path, content: bytes | object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def record(layer: Digest = LAYER) -> bytes:
    entries = [Entry(b"", 0o40755), Entry(b"d", 0o40700)]
    return encode(make_record(layer, DIFF_ID, Notation.OCI, entries, Markers((b"d/x",)), [b".cvmfscatalog"]))


def test_present(repository: Repository) -> None:
    """A layer that is there, an empty one too."""
    assert repository.find_layer(LAYER) == Layer(LAYER, repository.layout.layerfs(LAYER))
    repository.layout.layerfs(OTHER).mkdir(parents=True)
    assert isinstance(repository.find_layer(OTHER), Layer)


def test_absent(repository: Repository) -> None:
    """Not published: neither the digest nor, half published, its layerfs."""
    assert missing(repository.find_layer(OTHER)) == Missing(
        Reason.ABSENT, f"layer {OTHER} is not published in cat.example.org"
    )
    repository.layout.layer_metadata(OTHER).mkdir(parents=True)
    assert missing(repository.find_layer(OTHER)).reason is Reason.ABSENT


def test_unmounted(tmp_path: Path) -> None:
    """Without `.layers` the repository is away; neither an error nor an absent layer."""
    for root in (tmp_path / "nowhere", tmp_path):
        found = missing(Repository("r", Layout(root)).find_layer(LAYER))
        assert found.reason is Reason.UNMOUNTED
        assert f"{root}/.layers" in found.detail


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EIO, Reason.IO_ERROR),
        (errno.ENOTCONN, Reason.UNMOUNTED),
        (errno.ESTALE, Reason.STALE),
        (errno.ETIMEDOUT, Reason.TIMEOUT),
        (errno.EACCES, Reason.DENIED),
    ],
)
@pytest.mark.parametrize("call", ["open", "scandir"])
def test_unavailable(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, call: str, number: int, reason: Reason
) -> None:
    """Each errno is its reason, also when the open went well and only the listing fails (a catalog that cannot be
    loaded), and the detail says which layer and path."""

    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    found = missing(repository.find_layer(LAYER))
    monkeypatch.undo()
    assert found.reason is reason
    assert str(LAYER) in found.detail
    assert os.strerror(number) in found.detail


def test_unavailable_above_the_layer(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that is not found in a repository whose root does not answer is not absent."""
    real = os.stat

    def fail(path: os.PathLike[str], **options: bool) -> os.stat_result:
        if str(path).endswith(".layers"):
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return real(path, **options)

    monkeypatch.setattr(os, "stat", fail)
    assert missing(repository.find_layer(OTHER)).reason is Reason.UNMOUNTED


@pytest.mark.root
def test_denied_to_another_user(short_path: Path) -> None:
    """A layer that this process may not open is denied, not absent."""
    repository = Repository("cat.example.org", Layout(short_path))
    short_path.chmod(0o755)
    path = repository.layout.layerfs(LAYER)
    path.mkdir(parents=True)
    assert isinstance(as_nobody(lambda: repository.find_layer(LAYER)), Layer)
    for closed in (path, path.parent, repository.layout.layers):
        closed.chmod(0o700)
        assert missing(as_nobody(lambda: repository.find_layer(LAYER))).reason is Reason.DENIED
        closed.chmod(0o755)


def as_nobody(work: Callable[[], Layer | Missing]) -> Layer | Missing:
    """The result of `work` on a thread whose file system identity is another user's; the process keeps its own."""
    libc, results = ctypes.CDLL(None), list[Layer | Missing]()

    def run() -> None:
        libc.setfsuid(NOBODY)
        results.append(work())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results[0]


@pytest.mark.parametrize("target", ["/etc", "other", "nowhere", "layerfs"])
def test_link_in_the_place_of_a_layer(repository: Repository, target: str) -> None:
    """A layerfs that is a link is refused: it could show any directory of the node as an image's."""
    layer = repository.layout.layer(OTHER)
    (layer / "other").mkdir(parents=True)
    (layer / "layerfs").symlink_to(target)
    assert missing(repository.find_layer(OTHER)).reason in (Reason.ABSENT, Reason.DENIED)


def test_file_in_the_place_of_a_layer(repository: Repository) -> None:
    """A file, or a fifo that nobody writes to, is no layer and is not waited for; the detail names it."""
    path = write(repository.layout.layerfs(OTHER), b"")
    assert str(path) in missing(repository.find_layer(OTHER)).detail
    path.unlink()
    os.mkfifo(path)
    assert missing(repository.find_layer(OTHER)).reason is Reason.ABSENT


def test_no_descriptor_stays_open(repository: Repository) -> None:
    """Found, absent or refused: a daemon that looks at layers for years must not run out of descriptors."""
    before = len(os.listdir("/proc/self/fd"))
    for digest in (LAYER, OTHER) * 20:
        repository.find_layer(digest)
    assert len(os.listdir("/proc/self/fd")) == before


def test_find_by_diff_id(repository: Repository) -> None:
    """The publisher's link leads to the layer; no link, no directory of links, is None."""
    assert repository.find_by_diff_id(DIFF_ID) is None
    link = repository.layout.diff_id_link(DIFF_ID)
    link.parent.mkdir(parents=True)
    assert repository.find_by_diff_id(DIFF_ID) is None
    link.symlink_to(diff_id_target(LAYER))
    assert repository.find_by_diff_id(DIFF_ID) == LAYER
    assert link.resolve() == repository.layout.layer(LAYER)


@pytest.mark.parametrize("text", [b"/etc", b"../../../.layers/aa/..", b"\xff\xfe", b"x" * 4000])
def test_hostile_diff_id_link(repository: Repository, text: bytes) -> None:
    """A link that leads elsewhere counts as none."""
    link = repository.layout.diff_id_link(DIFF_ID)
    link.parent.mkdir(parents=True)
    os.symlink(text, os.fsencode(link))
    assert repository.find_by_diff_id(DIFF_ID) is None


def test_diff_id_that_is_not_a_link(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file or a directory there counts as none; a repository that does not answer raises."""
    link = write(repository.layout.diff_id_link(DIFF_ID), b"x")
    assert repository.find_by_diff_id(DIFF_ID) is None
    link.unlink()
    link.mkdir()
    assert repository.find_by_diff_id(DIFF_ID) is None
    link.rmdir()
    link.parent.rmdir()
    link.parent.touch()
    assert repository.find_by_diff_id(DIFF_ID) is None
    link.parent.unlink()
    link.parent.mkdir()
    monkeypatch.setattr(os, "readlink", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EIO, "gone")))
    with pytest.raises(OSError):
        repository.find_by_diff_id(DIFF_ID)


def test_record_and_outline(repository: Repository) -> None:
    """With a record the outline comes from it; without one from a walk."""
    assert repository.find_head(LAYER) is None
    assert repository.find_record(LAYER) is None
    assert repository.get_outline(LAYER, deadline_in(60)).source is Source.WALK
    write(repository.layout.tree_record(LAYER), record())
    head, whole = repository.find_head(LAYER), repository.find_record(LAYER)
    assert head is not None
    assert whole is not None
    assert head == whole.head
    outline = repository.get_outline(LAYER, 0.0)
    assert (outline.source, outline.whiteouts) == (Source.RECORD, (b"d/x",))
    assert outline.hidden == (b".cvmfscatalog", b"d/.wh.x")


def test_long_head_is_read_whole(repository: Repository) -> None:
    """A head of more bytes than one read brings."""
    markers = Markers(tuple(sorted(Digest.of(b"%d" % number).hex.encode() for number in range(20_000))))
    content = encode(make_record(LAYER, DIFF_ID, Notation.OCI, [Entry(b"", 0o40755)], markers, []))
    write(repository.layout.tree_record(LAYER), content)
    head = repository.find_head(LAYER)
    assert head is not None
    assert head.markers == markers


@pytest.mark.parametrize("content", [b"", b"x", record()[:-1], record()[:40], record(OTHER)])
def test_damaged_record(repository: Repository, content: bytes) -> None:
    """Damaged, cut short or another layer's: DataLoss with the file's path, never a walk instead."""
    path = write(repository.layout.tree_record(LAYER), content)
    with pytest.raises(DataLoss, match=str(path)):
        repository.find_record(LAYER)
    if content != record()[:-1]:  # the head of that one is whole
        with pytest.raises(DataLoss, match=str(path)):
            repository.get_outline(LAYER, deadline_in(60))


def test_unreadable_record_raises(repository: Repository) -> None:
    """What cannot be read is not "no record"."""
    repository.layout.tree_record(LAYER).mkdir(parents=True)
    with pytest.raises(DataLoss, match="not a regular file"):
        repository.find_head(LAYER)


def test_get_image(repository: Repository) -> None:
    """By its reference, with DUCC's capitals; not published is NotFound, damaged is an error with the path."""
    reference = Reference.parse("h.org/a/b:1")
    with pytest.raises(NotFound, match=r"h\.org/a/b:1"):
        repository.get_image(reference)
    path = write(repository.layout.manifest_json(reference), MANIFEST)
    image = repository.get_image(reference)
    assert (image.reference, image.manifest.layers[0].digest) == (reference, LAYER)
    path.write_bytes(b"{")
    with pytest.raises(InvalidArgument, match=str(path)):
        repository.get_image(reference)


def test_get_blob(repository: Repository) -> None:
    """Byte for byte and verified; another content is DataLoss, none is NotFound."""
    digest = Digest.of(b"config")
    with pytest.raises(NotFound):
        repository.get_blob(digest)
    path = write(repository.layout.blob(digest), b"config")
    assert repository.get_blob(digest) == b"config"
    path.write_bytes(b"confit")
    with pytest.raises(DataLoss, match="not what its digest promises"):
        repository.get_blob(digest)


def test_walk_images(repository: Repository) -> None:
    """Every image, nested names, ports, digests and tags; nothing of our own folders and no other file."""
    names = ["a.org/x:1", "a.org/x:2", "a.org/x/y/z:latest", f"b.org:5000/q@sha256:{'e' * 64}", "localhost/l:1"]
    for name in names:
        write(repository.layout.metadata / name / "manifest.json", MANIFEST)
    write(repository.layout.metadata / "remove-schedule.json", b"[]")
    write(repository.layout.blob(LAYER), b"")
    write(repository.layout.metadata / "diffid/x.y/z:1/manifest.json", MANIFEST)
    write(repository.layout.metadata / "a.org/UPPER:1/manifest.json", MANIFEST)
    write(repository.layout.metadata / "a.org/empty:1/other.json", MANIFEST)
    write(repository.layout.metadata / os.fsdecode(b"a.org/\xff:1") / "manifest.json", MANIFEST)
    found = list(repository.walk_images())
    assert sorted(map(str, found)) == sorted(names)
    assert [repository.get_image(reference).reference for reference in found] == found


def test_walk_images_gives_only_what_get_image_finds(repository: Repository) -> None:
    """A registry without a dot cannot be written as a reference: it would read as one of Docker Hub's."""
    write(repository.layout.metadata / "host/a:1/manifest.json", MANIFEST)
    write(repository.layout.metadata / "h.org/a/manifest.json", MANIFEST)
    assert [repository.get_image(reference) for reference in repository.walk_images()] == []


def test_walk_images_ends(repository: Repository) -> None:
    """Links in circles are not followed."""
    write(repository.layout.metadata / "a.org/x:1/manifest.json", MANIFEST)
    for name in "abcdef":
        (repository.layout.metadata / "a.org" / name).symlink_to(".")
    assert [str(reference) for reference in repository.walk_images()] == ["a.org/x:1"]


def test_walk_images_of_nothing(tmp_path: Path) -> None:
    """A repository without images, or that is away, has none."""
    assert list(Repository("r", Layout(tmp_path / "none")).walk_images()) == []


@pytest.mark.parametrize(("value", "expected"), [(b"16", 16), (None, None), (b"", None), (b"x", None), (b"-1", None)])
def test_revision(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, value: bytes | None, expected: int | None
) -> None:
    """A number where the mount says one; else None."""
    monkeypatch.setattr("cvmfsrepo.xattrs.read", lambda path, name: value if name == "user.revision" else None)
    assert repository.find_revision() == expected


def test_identity(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mount's name and hash; what its client keeps from this user is not known."""
    told = {"user.fqrn": b"one.example", "user.root_hash": b"abc"}
    monkeypatch.setattr("cvmfsrepo.xattrs.read", lambda path, name: told[name])
    assert repository.find_identity() == ("one.example", "abc")

    def read(path: Path, name: str) -> bytes:
        raise PermissionError(errno.EACCES, "protected")

    monkeypatch.setattr("cvmfsrepo.xattrs.read", read)
    assert repository.find_identity() == ("", "")


def test_plain_directory_has_no_revision(repository: Repository) -> None:
    """A plain directory is as good as a mount."""
    assert repository.find_revision() is None
    assert repository.find_identity() == ("", "")
