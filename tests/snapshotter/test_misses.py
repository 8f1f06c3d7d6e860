"""A Prepare whose layer cannot be had: an ordinary active snapshot, and a reason that a person can read."""

import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from cvmfsrepo import tree
from cvmfsrepo.compare import scan
from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import AlreadyExists
from cvmfsrepo.layout import Layout
from cvmfsrepo.repository import Repository
from snapshotter import labels as label
from snapshotter.config import Config
from snapshotter.server import opened
from snapshotter.snapshots import Kind
from snapshotter.snapshotter import Snapshotter
from tests.snapshotter.layers import NAME, HandMade, diff_id_of, lookup, pull
from tests.snapshotter.nodes import Stall, eventually, node, observed
from tests.suites.contract import Verbs, fresh, upper_of


def missed(verbs: Verbs, labels: dict[str, str], parent: str = "") -> str:
    """A Prepare that must miss; the reason and its sentence, as Stat shows them."""
    key = fresh("extract")
    mounts = verbs.prepare(key, parent, labels)
    info = verbs.stat(key)
    assert info.kind is Kind.ACTIVE
    assert verbs.mounts(key) == mounts
    return info.labels[label.MISS]


def assert_hit(verbs: Verbs, labels: dict[str, str]) -> None:
    with pytest.raises(AlreadyExists, match="is served"):
        verbs.prepare(fresh("extract"), "", labels)


def test_a_layer_that_is_not_published(repository: HandMade, verbs: Snapshotter) -> None:
    """`absent`, with the layer and the repository; the caller downloads it as always."""
    layer = Digest.of(b"none")
    assert missed(verbs, pull("a", layer)) == f"absent: layer {layer} is not published in {NAME}"
    assert missed(verbs, pull("a", diff_id=layer)).startswith(f"absent: a layer with diff id {layer} ")
    assert missed(verbs, pull("a", layer, layer)).startswith("absent: ")


@pytest.mark.root
def test_a_repository_that_is_away(config: Config) -> None:
    """At the start it is a state and no error; when the repository comes, the next Prepare is a hit."""
    with opened(config) as verbs:
        labels = pull("a", Digest.of(b"base"))
        assert missed(verbs, labels).startswith("unmounted: ")
        Path(config.absolute_mountpoint).mkdir()
        assert missed(verbs, labels).startswith("unmounted: ")
        repository = HandMade(Path(config.absolute_mountpoint))
        assert missed(verbs, labels).startswith("absent: ")
        repository.add("base")
        assert_hit(verbs, labels)


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "sha256:",
        "sha256:../../x",
        "sha256:" + "../" * 21 + "x",
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 64 + "\n",
        "sha512:" + "a" * 64,
        "a" * 64,
        "sha256:" + "a" * 4096,
        "\0",
        "ü\ud7ff",
    ],
)
@pytest.mark.parametrize("name", [label.LAYER_DIGEST, label.DIFF_ID])
def test_a_hostile_digest(repository: HandMade, verbs: Snapshotter, name: str, text: str) -> None:
    """`bad-label`, and nothing is looked up; the sentence is of one line and not longer than a label may be."""
    said = missed(verbs, {label.TARGET: "a", name: text})
    assert said.startswith(f"bad-label: label {name} ")
    assert len(said) < 600
    assert "\n" not in said


@pytest.mark.root
@pytest.mark.parametrize("target", ["", "x", "../../x", "a b", 'a",parent==""', "ü", "t" * 4096])
def test_a_strange_target(repository: HandMade, verbs: Snapshotter, target: str) -> None:
    """A target is a name and no path; an empty one asks for nothing."""
    labels = pull(target, repository.add("base"))
    if not target:
        verbs.prepare("key", "", labels)
        assert label.MISS not in verbs.stat("key").labels
        return
    assert_hit(verbs, labels)
    (info,) = verbs.walk()
    assert info.labels[label.TARGET] == target


def test_labels_without_a_digest(verbs: Snapshotter) -> None:
    """`no-layer-label`, with what to switch on in containerd."""
    said = missed(verbs, pull("a"))
    assert said.startswith("no-layer-label: ")
    assert "disable_snapshot_annotations = false" in said


def test_the_reason_stays_with_the_snapshot(repository: HandMade, config: Config) -> None:
    """Through Commit, a new set of labels and a restart; List finds it; a client's labels are not mixed with it."""
    with opened(config) as verbs:
        verbs.prepare("key", "", pull("a", Digest.of(b"none")))
        verbs.commit("name", "key", {"b": "1"})
        verbs.update(verbs.stat("name"), ["labels.b"])
    with opened(config) as verbs:
        assert set(verbs.stat("name").labels) == {"b", label.MISS}
        (info,) = verbs.walk([f'labels."{label.MISS}"~=/^absent: /'])
        assert info == verbs.stat("name")
        verbs.prepare("plain", "", {})
        assert verbs.stat("plain").labels == {}


def test_what_stands_where_a_layer_should(repository: HandMade, verbs: Snapshotter) -> None:
    """A file, a link to elsewhere or a socket in place of the layer's directory is no layer."""
    places: list[Callable[[Path], object]] = [Path.touch, lambda path: path.symlink_to("/etc"), _socket]
    for number, make in enumerate(places):
        layer = Digest.of(f"{number}".encode())
        path = repository.layout.layerfs(layer)
        path.parent.mkdir(parents=True)
        make(path)
        assert missed(verbs, pull(f"{number}", layer)).split(":")[0] in ("absent", "io-error", "denied")


def _socket(path: Path) -> None:
    directory = os.open(path.parent, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{directory}/{path.name}")  # the path itself may be too long
    os.close(directory)


def _version(content: bytes) -> bytes:
    head = msgspec.structs.replace(tree.decode(content).head, version=7)
    return tree.encode(tree.Record(head, tree.decode(content).entries))


@pytest.mark.root
@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda content: content[:40], "cut short"),
        (lambda content: b"", "tree record"),
        (lambda content: b"garbage" * 100, "not a zstd frame"),
        (_version, "upgrade this program"),
    ],
    ids=["cut", "empty", "garbage", "version"],
)
def test_a_record_that_cannot_be_read(
    repository: HandMade, verbs: Snapshotter, damage: Callable[[bytes], bytes], word: str
) -> None:
    """`markers-unavailable`: rather a download than a layer whose deletions are not known. A mended record is read
    by the next Prepare."""
    layer = repository.add("base")
    repository.record(layer)
    path = repository.layout.tree_record(layer)
    content = path.read_bytes()
    path.write_bytes(damage(content))
    said = missed(verbs, pull("a", layer))
    assert said.startswith(f"markers-unavailable: repository {NAME}: ")
    assert word in said
    path.write_bytes(content)
    assert_hit(verbs, pull("a", layer))


def test_a_record_of_another_layer(repository: HandMade, verbs: Snapshotter) -> None:
    """A record that was copied to the wrong place is not believed."""
    layer, other = repository.add("base"), repository.add("other")
    repository.record(other)
    repository.write_record(layer, repository.layout.tree_record(other).read_bytes())
    assert missed(verbs, pull("a", layer)).startswith("markers-unavailable: ")


@pytest.mark.parametrize("path", [b"n" * 256, b"/".join([b"d" * 200] * 30)])
def test_a_record_whose_shims_cannot_be_written(
    repository: HandMade, verbs: Snapshotter, config: Config, path: bytes
) -> None:
    """A record is content, and may hold names that no disk takes: a miss, and nothing half written."""
    layer = repository.add("base")
    root = scan(repository.layout.layerfs(layer))[b""]
    names = layer.hex, diff_id_of(layer).hex
    head = tree.Head(tree.FORMAT, tree.VERSION, *names, tree.Notation.OCI, whiteouts=(path,), directories=(root,))
    repository.write_record(layer, tree.encode(tree.Record(head, ())))
    assert missed(verbs, pull("a", layer)).startswith(f"markers-unavailable: shims of layer {layer} cannot be written")
    assert [path for path in Path(config.root, "shims").iterdir() if path.name.startswith("new-")] == []


def test_names_of_attributes_that_are_not_utf8(repository: HandMade, verbs: Snapshotter) -> None:
    """A layer may have them; it is served or missed with a reason, and never an internal error."""
    layer = repository.add("base", {"d/.wh.x": ""})
    try:
        os.setxattr(os.fsencode(repository.layout.layerfs(layer) / "d"), b"user.\xff", b"1")
    except OSError as error:
        pytest.skip(f"the file system takes no such attribute: {error.strerror}")
    try:
        verbs.prepare("key", "", pull("a", layer))
    except AlreadyExists:
        assert lookup(verbs, "a", "")
    else:
        assert label.MISS in verbs.stat("key").labels


@pytest.mark.root
@pytest.mark.parametrize("method", ["find_layer", "find_by_diff_id", "find_outline", "find_revision"])
def test_a_repository_that_hangs(tmp_path: Path, repository: HandMade, method: str) -> None:
    """Prepare answers at the deadline with `timeout`; when the repository is back, the next one hits."""
    layer = repository.add("base")
    stall = Stall(method)
    labels = pull("a", diff_id=repository.link_diff_id(layer))
    with node(tmp_path / "root", observed(repository.root, stall), deadline=0.2) as parts:
        started = time.monotonic()
        said = missed(parts.verbs, labels)
        assert said == f"timeout: repository {NAME}: no answer within 0.2 s"
        assert 0.2 <= time.monotonic() - started < 2
        stall.over.set()
        assert_hit(parts.verbs, labels)


@pytest.mark.root
@pytest.mark.parametrize("method", ["find_layer", "find_by_diff_id", "find_outline", "find_revision"])
def test_nothing_waits_for_a_repository_but_its_own_prepare(tmp_path: Path, repository: HandMade, method: str) -> None:
    """No transaction is open while the repository is asked: all other verbs go through, remote ones too."""
    layer = repository.add("base")
    diff_id = repository.link_diff_id(layer)
    stall = Stall(method)
    outcome: list[Exception] = []

    def prepare(verbs: Snapshotter) -> None:
        try:
            verbs.prepare("slow", "", pull("a", diff_id=diff_id))
        except AlreadyExists as error:
            outcome.append(error)

    with node(tmp_path / "root", observed(repository.root, stall), deadline=30) as parts:
        verbs = parts.verbs
        thread = threading.Thread(target=prepare, args=(verbs,))
        thread.start()
        assert stall.reached.wait(10)
        verbs.prepare("key", "", {})
        verbs.commit("name", "key", {})
        verbs.view("view", "name", {})
        verbs.remove("view")
        verbs.cleanup()
        assert [info.name for info in verbs.walk()] == ["name"]
        assert thread.is_alive()
        stall.over.set()
        thread.join(10)
    assert len(outcome) == 1


def test_a_walk_that_does_not_end_in_time(tmp_path: Path, repository: HandMade) -> None:
    """`markers-unavailable`, as the deletions of the layer are what could not be had in time."""
    layer = repository.add("base", {f"{number}/file": "" for number in range(50)})

    def before(method: str) -> None:
        if method == "walk_outline":
            time.sleep(0.18)

    with node(tmp_path / "root", observed(repository.root, before), deadline=0.19) as parts:
        assert missed(parts.verbs, pull("a", layer)).startswith("markers-unavailable: ")


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EIO, "io-error"),
        (errno.ENOTCONN, "unmounted"),
        (errno.ESTALE, "stale"),
        (errno.EACCES, "denied"),
        (errno.ETIMEDOUT, "timeout"),
    ],
)
def test_an_error_of_the_file_system(tmp_path: Path, repository: HandMade, number: int, reason: str) -> None:
    """Each has its reason, and none is an error of Prepare."""
    layer = repository.add("base")

    def before(method: str) -> None:
        if method == "find_outline":
            raise OSError(number, os.strerror(number))

    with node(tmp_path / "root", observed(repository.root, before)) as parts:
        assert missed(parts.verbs, pull("a", layer)).startswith(f"{reason}: repository {NAME}: ")


@pytest.mark.root
def test_stuck_threads_do_not_use_up_the_repository(tmp_path: Path, repository: HandMade) -> None:
    """Calls that hang for ever take threads of a bounded pool; those of other layers still get one."""
    slow, quick = repository.add("slow"), repository.add("quick")
    lease = repository.stall_record(slow)
    with node(tmp_path / "root", Repository(NAME, repository.layout), deadline=0.1) as parts:
        for _ in range(8):
            assert missed(parts.verbs, pull("a", slow)).startswith("timeout: ")
        assert_hit(parts.verbs, pull("b", quick))
    os.close(lease)


@pytest.mark.root
def test_two_repositories(tmp_path: Path) -> None:
    """The first that has the layer serves it; where none has, one that does not answer outweighs one that has not."""
    first, second = HandMade(tmp_path / "first"), HandMade(tmp_path / "second")
    both, one = first.add("both"), second.add("one")
    second.add("both")
    repositories = Repository("first", first.layout), Repository("second", second.layout)
    away = Repository("away", Layout(tmp_path / "away"))
    with node(tmp_path / "root", away, *repositories) as parts:
        assert_hit(parts.verbs, pull("b", both))
        assert_hit(parts.verbs, pull("o", one))
        served = {info.labels[label.TARGET]: info.labels[label.REMOTE] for info in parts.verbs.walk()}
        assert served == {"b": "first", "o": "second"}
        assert missed(parts.verbs, pull("n", Digest.of(b"none"))).startswith("unmounted: ")
    with node(tmp_path / "root", *repositories, away) as parts:
        assert missed(parts.verbs, pull("n", Digest.of(b"none"))).startswith("unmounted: ")


@pytest.mark.root
def test_an_outline_is_read_once(tmp_path: Path, repository: HandMade) -> None:
    """It depends on the digest alone and is kept for ever; a damaged copy is made again."""
    layer, asked = repository.add("base", {"a": "x", ".wh.b": ""}), list[str]()
    root = tmp_path / "root"
    for turn in range(3):
        with node(root, observed(repository.root, asked.append)) as parts:
            assert_hit(parts.verbs, pull(f"{turn}", layer))
    assert asked.count("walk_outline") == 1
    (kept,) = (root / "layers").iterdir()
    for content in (b"", b"\xff\xfe", kept.read_bytes()[:10], b"\x81\xa6source\xa1\xff"):
        kept.write_bytes(content)
        with node(root, observed(repository.root, asked.append)) as parts:
            assert_hit(parts.verbs, pull(f"again {content!r}", layer))
    assert asked.count("walk_outline") == 5


@pytest.mark.root
def test_what_publication_lost_is_said_once(
    repository: HandMade, verbs: Snapshotter, config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    """A layer that differs from its record is served, with one warning and a note for the commands."""
    layer = repository.add("base", {"file": "x"})
    (entry,) = [entry for path, entry in scan(repository.layout.layerfs(layer)).items() if path == b"file"]
    repository.record(layer, {b"file": msgspec.structs.replace(entry, uid=4242)})
    for target in "ab":
        assert_hit(verbs, pull(target, layer))
    note = Path(config.root, "layers", f"{layer.hex}.losses")
    eventually(note.exists)
    eventually(lambda: "layer differs from its record" in caplog.messages)
    assert caplog.messages.count("layer differs from its record") == 1
    (record,) = [record for record in caplog.records if record.message.startswith("layer differs")]
    assert record.__dict__["fields"]["lost"] == ["owners"]


def test_a_miss_is_an_ordinary_snapshot(repository: HandMade, verbs: Snapshotter) -> None:
    """It is written to, committed and stood upon, also by a remote layer."""
    upper = upper_of(verbs.prepare("key", "", pull("a", Digest.of(b"none"))))
    (upper / "file").write_text("x")
    verbs.commit("local", "key", {label.TARGET: "a"})
    assert lookup(verbs, "a", "") == ["local"]
    with pytest.raises(AlreadyExists):
        verbs.prepare("next", "local", pull("b", repository.add("top")))
    assert len(lookup(verbs, "b", "local")) == 1
