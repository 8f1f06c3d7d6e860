"""What a repository may hold and do to the node that indexes it: none of it ends the index, or a Prepare."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import AlreadyExists
from snapshotter import labels as label
from snapshotter.config import Config
from snapshotter.server import opened
from tests import mounting
from tests.mounting import Standin
from tests.snapshotter.daemon import Daemon
from tests.snapshotter.indexing import Published, chain_of, index_of, wait_until_read
from tests.snapshotter.layers import NAME, diff_id_of, pull
from tests.snapshotter.nodes import eventually

REF = "registry.example/group/image:1"


@pytest.fixture
def repository(tmp_path: Path) -> Published:
    """One good image of two layers, beside which everything bad stands."""
    repository = Published(tmp_path / "repository")
    repository.publish(REF, repository.described("base", "top"))
    return repository


def _manifest(layer: Digest) -> str:
    return json.dumps({"config": {"digest": str(layer), "size": 1}, "layers": [{"digest": str(layer), "size": 1}]})


_BAD_MANIFESTS = {
    "empty": "",
    "no JSON": "{",
    "a list": "[]",
    "no layers": '{"config": {"digest": "sha256:' + "0" * 64 + '", "size": 1}, "layers": []}',
    "a digest that leads out": _manifest(Digest.of(b"x")).replace(str(Digest.of(b"x")), "sha256:../../../etc"),
    "nested": "[" * 100_000,
    "a negative size": _manifest(Digest.of(b"x")).replace('"size": 1', '"size": -1'),
    "too many layers": json.dumps(
        {
            "config": {"digest": f"sha256:{'0' * 64}", "size": 1},
            "layers": [{"digest": f"sha256:{number:064}", "size": 1} for number in range(1001)],
        }
    ),
    "too large": " " * (4 << 20) + "{}",
}


@pytest.mark.parametrize("bad", _BAD_MANIFESTS)
def test_a_malformed_manifest_is_named_and_passed_over(repository: Published, tmp_path: Path, bad: str) -> None:
    """Counted once, said with its path, and read again when it is mended."""
    repository.publish_text("registry.example/bad:1", _BAD_MANIFESTS[bad])
    with index_of(tmp_path / "index.sqlite", repository.root) as index:
        wait_until_read(index)
        ((path, problem),) = index.malformed(NAME)
        assert path == ".metadata/registry.example/bad:1"
        assert problem
        state = index.state(NAME)
        assert (state.images, state.malformed, state.complete) == (1, 1, True)
        assert index.find_image("registry.example/bad:1") is None
        assert index.find_image(REF)
        repository.publish("registry.example/bad:1", repository.described("other"))
        wait_until_read(index)
        assert (index.malformed(NAME), index.state(NAME).images) == ([], 2)


def _without_manifest(repository: Published) -> None:
    (repository.layout.metadata / "registry.example" / "begun:1").mkdir()


def _manifest_is_a_link(repository: Published) -> None:
    directory = repository.layout.metadata / "registry.example" / "link:1"
    directory.mkdir()
    (directory / "manifest.json").symlink_to("/etc/passwd")


def _manifest_is_a_pipe(repository: Published) -> None:
    directory = repository.layout.metadata / "registry.example" / "pipe:1"
    directory.mkdir()
    os.mkfifo(directory / "manifest.json")


def _not_named_like_an_image(repository: Published) -> None:
    directory = repository.layout.metadata / "registry.example" / "untagged"
    directory.mkdir()
    (directory / "manifest.json").write_text("{}")


def _name_of_any_bytes(repository: Published) -> None:
    os.mkdir(os.fsencode(repository.layout.metadata / "registry.example") + b"/\xff\n:1")


def _layers_json_is_damaged(repository: Published) -> None:
    layer = repository.add("damaged")
    repository.describe(layer)
    repository.layout.layers_json(layer).write_text("[{}, {}]")
    repository.publish("registry.example/damaged:1", [layer])


def _layers_json_names_no_digest(repository: Published) -> None:
    layer = repository.add("damaged")
    repository.describe(layer)
    repository.layout.layers_json(layer).write_text('[{"diff-digest": "sha256:../../etc"}]')
    repository.publish("registry.example/damaged:1", [layer])


def _record_is_damaged(repository: Published) -> None:
    layer = repository.add("damaged")
    repository.write_record(layer, b"no record")
    repository.publish("registry.example/damaged:1", [layer])


def _config_is_another(repository: Published) -> None:
    config = repository.keep_config([diff_id_of(Digest.of(b"base"))])
    repository.layout.blob(config).write_text("{}")
    repository.publish("registry.example/config:1", repository.described("of that config"), config)


def _config_contradicts_a_layer(repository: Published) -> None:
    config = repository.keep_config([Digest.of(b"something else")])
    repository.publish("registry.example/config:1", repository.described("of that config"), config)


def _config_has_other_layers(repository: Published) -> None:
    config = repository.keep_config([Digest.of(b"a"), Digest.of(b"b")])
    repository.publish("registry.example/config:1", repository.described("of that config"), config)


@pytest.mark.parametrize(
    ("spoil", "path"),
    [
        (_without_manifest, ".metadata/registry.example/begun:1"),
        (_manifest_is_a_link, ".metadata/registry.example/link:1"),
        (_manifest_is_a_pipe, ".metadata/registry.example/pipe:1"),
        (_not_named_like_an_image, ".metadata/registry.example/untagged"),
        (_name_of_any_bytes, ".metadata/registry.example/\\xff\\n:1"),
        (_layers_json_is_damaged, f".layers/{Digest.of(b'damaged').hex[:2]}/{Digest.of(b'damaged').hex}"),
        (_layers_json_names_no_digest, f".layers/{Digest.of(b'damaged').hex[:2]}/{Digest.of(b'damaged').hex}"),
        (_record_is_damaged, f".layers/{Digest.of(b'damaged').hex[:2]}/{Digest.of(b'damaged').hex}"),
        (_config_is_another, ".metadata/registry.example/config:1"),
        (_config_contradicts_a_layer, ".metadata/registry.example/config:1"),
        (_config_has_other_layers, ".metadata/registry.example/config:1"),
    ],
)
def test_what_is_malformed_is_named(
    repository: Published,
    tmp_path: Path,
    spoil: Callable[[Published], None],
    path: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One entry, by its path, once in the log however often it is seen; the good image beside it is indexed."""
    spoil(repository)
    with index_of(tmp_path / "index.sqlite", repository.root) as index:
        wait_until_read(index)
        assert [where for where, _ in index.malformed(NAME)] == [path]
        assert (index.state(NAME).malformed, index.state(NAME).complete) == (1, True)
        image = index.find_image(REF)
        assert image
        assert len(image.chains) == 2
    assert [r.message for r in caplog.records if r.levelname == "WARNING"] == ["malformed entries in repository"]


def test_contradicting_diff_ids_give_no_chain(repository: Published, tmp_path: Path) -> None:
    """Neither of the two is believed: to serve a layer for another would be worse than a download."""
    _config_contradicts_a_layer(repository)
    with index_of(tmp_path / "index.sqlite", repository.root) as index:
        wait_until_read(index)
        image = index.find_image("registry.example/config:1")
        assert image
        assert (image.chains, bool(image.problem)) == ((), True)


def test_links_to_directories_are_not_followed(repository: Published, tmp_path: Path) -> None:
    """A link in `.metadata` may lead anywhere, also round in a circle."""
    (repository.layout.metadata / "loop").symlink_to(".")
    (repository.layout.metadata / "registry.example" / "etc").symlink_to("/etc")
    with index_of(tmp_path / "index.sqlite", repository.root) as index:
        wait_until_read(index)
        assert (index.state(NAME).images, index.malformed(NAME)) == (1, [])


@pytest.mark.slow
def test_a_repository_that_goes_away_keeps_its_entries(repository: Published, tmp_path: Path) -> None:
    """An empty mount point holds nothing and says nothing of what is published; the state says what is wrong."""
    with index_of(tmp_path / "index.sqlite", repository.root) as index:
        wait_until_read(index)
        repository.root.rename(tmp_path / "away")
        repository.root.mkdir()
        eventually(lambda: index.state(NAME).problem)
        assert index.find_image(REF)
        repository.root.rmdir()
        (tmp_path / "away").rename(repository.root)
        wait_until_read(index)
        assert index.state(NAME).problem == ""


@pytest.fixture
def mounted(repository: Published, tmp_path: Path) -> Iterator[Standin]:
    """The repository on a mount that remembers as a real client's does."""
    mounting.needs_fuse()
    with mounting.standin(repository.root, tmp_path / "mount", kcache=60, negative=60) as standin:
        try:
            yield standin
        finally:
            standin.clear()


def _config(tmp_path: Path, **more: float) -> Config:
    return Config(
        root=str(tmp_path / "root"), repository=NAME, absolute_mountpoint=str(tmp_path / "mount"),
        deadline=0.5, probe_interval=0.1, index_interval=0.2, **more,  # type: ignore[arg-type]  # floats all of them
    )  # fmt: skip


@pytest.mark.root
@pytest.mark.fuse
def test_metadata_that_hangs_hurts_no_prepare(repository: Published, mounted: Standin, tmp_path: Path) -> None:
    """While `.metadata` hangs, the daemon starts at once, labelled layers are served as quickly as ever, however long
    it goes on, and a request by chain alone is a miss that says what keeps the index; then the index resumes."""
    layers = [Digest.of(b"base"), Digest.of(b"top")]
    mounted.fault("stall", "/.metadata")
    began = time.monotonic()
    with opened(_config(tmp_path)) as verbs:
        assert time.monotonic() - began < 2
        mounted.wait_until_held(1)
        time.sleep(1.0)  # several deadlines and probes
        for number in range(5):
            began = time.monotonic()
            with pytest.raises(AlreadyExists):
                verbs.prepare(f"extract-{number}", "", pull(f"target-{number}", layers[0]))
            assert time.monotonic() - began < 0.4
        assert mounted.held() == 1
        verbs.prepare("extract", "", {label.TARGET: str(chain_of(layers[:1]))})
        missed = verbs.stat("extract").labels[label.MISS]
        assert missed.startswith("no-layer-label: ")
        assert "is not complete" in missed
        assert "no answer for" in missed
        mounted.clear()
        eventually(lambda: _is_served(verbs.prepare, str(chain_of(layers[:1]))))


def _is_served(prepare: Callable[[str, str, dict[str, str]], object], target: str) -> bool:
    try:
        prepare(f"extract-{time.monotonic_ns()}", "", {label.TARGET: target})
    except AlreadyExists:
        return True
    return False


@pytest.mark.root
@pytest.mark.fuse
def test_entries_that_cannot_be_read_now_are_read_later(
    repository: Published, mounted: Standin, tmp_path: Path
) -> None:
    """An error on a file is no malformed entry and ends nothing: the others are indexed, and it is when it can be."""
    repository.publish("registry.example/other:1", repository.described("other"))
    mounted.fault("eio", f"/.layers/{Digest.of(b'other').hex[:2]}")
    with index_of(tmp_path / "index.sqlite", tmp_path / "mount") as index:
        eventually(lambda: index.find_layer_of_chain(chain_of([Digest.of(b"base")])))
        eventually(lambda: index.state(NAME).problem)
        assert (index.malformed(NAME), index.state(NAME).complete) == ([], False)
        mounted.clear()
        eventually(lambda: index.find_layer_of_chain(chain_of([Digest.of(b"other")])))
        eventually(lambda: index.state(NAME).complete)
        assert index.state(NAME).problem == ""


@pytest.mark.root
@pytest.mark.fuse
def test_another_mount_is_read_anew(repository: Published, mounted: Standin, tmp_path: Path) -> None:
    """Also in the same revision: what is mounted there now may be something else. A visit that hangs on the last mount
    is given up."""
    with index_of(tmp_path / "index.sqlite", tmp_path / "mount") as index:
        eventually(lambda: index.state(NAME).complete)
        assert index.state(NAME).revision == 1
        repository.publish("registry.example/other:1", repository.described("other"))
        mounted.fault("stall", "/")
        mounted.publish(2)
        time.sleep(0.3)
        mounted.clear()
        mounted.vanish()
        mounted.reappear()
        eventually(lambda: index.find_image("registry.example/other:1"))


@pytest.mark.root
@pytest.mark.fuse
def test_revisions_and_first_sights(repository: Published, mounted: Standin, tmp_path: Path) -> None:
    """An image and a layer are known with the revision in which this node saw them first, also after they went away,
    came back, and the daemon began anew."""
    new = repository.described("new")
    mounted.publish(5, hide=["/.metadata/registry.example/new:1"])
    repository.publish("registry.example/new:1", [Digest.of(b"base"), *new])
    with index_of(tmp_path / "index.sqlite", tmp_path / "mount") as index:
        eventually(lambda: index.state(NAME).complete)
        mounted.publish(7, show=["/.metadata/registry.example/new:1"])
        eventually(lambda: index.find_image("registry.example/new:1"))
        eventually(lambda: index.state(NAME).complete)
        mounted.publish(8, hide=["/.metadata/registry.example/new:1"])
        eventually(lambda: index.find_image("registry.example/new:1") is None)
        assert index.find_layer(new[0]) is None
    mounted.publish(9, show=["/.metadata/registry.example/new:1"])
    with index_of(tmp_path / "index.sqlite", tmp_path / "mount") as index:
        eventually(lambda: index.state(NAME).revision == 9 and index.state(NAME).complete)
        old, image = index.find_image(REF), index.find_image("registry.example/new:1")
        base, layer = index.find_layer(Digest.of(b"base")), index.find_layer(new[0])
    assert old
    assert image
    assert base
    assert layer
    assert (old.first_revision, image.first_revision) == (5, 7)
    assert (base.first_revision, layer.first_revision) == (5, 7)
    assert old.first_seen < image.first_seen < time.time_ns()


@pytest.mark.root
@pytest.mark.fuse
def test_a_daemon_that_is_killed_goes_on_where_it_was(repository: Published, mounted: Standin, tmp_path: Path) -> None:
    """What was read is not read again: killed half-way, it opens after its restart only what it had not opened."""
    for number in range(40):
        repository.publish(f"registry.example/{number:02}:1", repository.described(f"layer {number}"))
    with Daemon(
        tmp_path / "root",
        repository=NAME,
        absolute_mountpoint=tmp_path / "mount",
        probe_interval=0.1,
        index_rate=40,
        index_interval=0.2,
    ) as daemon:
        eventually(lambda: _opened(mounted) > 30, 30)
        daemon.kill9()
        before = _opened(mounted)
        daemon.start()
        eventually(lambda: any(line.get("msg") == "repository indexed" for line in daemon.log_lines()), 30)
        (line,) = [line for line in daemon.log_lines() if line.get("msg") == "repository indexed"]
        assert (line["images"], line["layers"], line["complete"]) == (41, 42, True)
        assert before < 70
        assert _opened(mounted) <= 41 + 42 + 2  # each document once, but for the image that was being read


def _opened(mounted: Standin) -> int:
    return mounted.counters().operations.get("open", 0)
