"""Prepares that the index helps: those that name a chain alone, and layers that were compressed anew."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cvmfsrepo.digest import Digest, chain_id
from cvmfsrepo.errors import AlreadyExists
from snapshotter import labels as label
from snapshotter.config import Config, RepositoryConfig
from snapshotter.labels import wanted_layer
from snapshotter.server import opened
from snapshotter.snapshotter import Snapshotter
from tests import mounting
from tests.snapshotter.indexing import Published, chain_of
from tests.snapshotter.layers import NAME, HandMade, diff_id_of, lookup, pull
from tests.snapshotter.nodes import eventually
from tests.suites.contract import fresh

REF = "registry.example/group/image:1"


@pytest.fixture
def repository(tmp_path: Path) -> Published:
    """With one image of two layers."""
    repository = Published(tmp_path / "repository")
    repository.publish(REF, repository.described("base", "top"))
    return repository


@pytest.fixture
def layers(repository: Published) -> list[Digest]:
    """Those of the image."""
    return [Digest.of(b"base"), Digest.of(b"top")]


@pytest.fixture
def node(repository: HandMade, config: Config) -> Iterator[Snapshotter]:
    """A snapshotter that has read the repository."""
    with opened(msgspec.structs.replace(config, probe_interval=0.1, index_interval=0.1)) as verbs:
        eventually(lambda: "is complete, with 1 images" in _miss(verbs, {label.TARGET: str(Digest.of(b"unknown"))}))
        yield verbs


def _miss(verbs: Snapshotter, labels: dict[str, str], parent: str = "") -> str:
    """What a Prepare that must miss says."""
    key = fresh("extract")
    verbs.prepare(key, parent, labels)
    return verbs.stat(key).labels[label.MISS]


def _served(verbs: Snapshotter, labels: dict[str, str], parent: str = "") -> str:
    """The name of the snapshot that a Prepare that must hit makes."""
    with pytest.raises(AlreadyExists):
        verbs.prepare(fresh("extract"), parent, labels)
    (name,) = lookup(verbs, labels[label.TARGET], parent)
    return name


pytestmark = pytest.mark.root


def test_a_request_that_names_the_chain_alone(node: Snapshotter, layers: list[Digest], config: Config) -> None:
    """Each layer of the image is served, under the name that was asked for."""
    parent = ""
    for number in (1, 2):
        target = str(chain_of(layers[:number]))
        parent = _served(node, {label.TARGET: target}, parent)
        assert node.stat(parent).labels[label.TARGET] == target
    shown = sorted(path.name for path in Path(config.root, "snapshots").glob("*/fs/*"))
    assert shown == ["base", "top"]


def test_an_unknown_chain(node: Snapshotter) -> None:
    """`no-layer-label`, with what to switch on, and what the index knows."""
    said = _miss(node, {label.TARGET: str(Digest.of(b"unknown"))})
    assert said.startswith("no-layer-label: ")
    assert "disable_snapshot_annotations = false" in said
    assert f"repository {NAME} has no chain {Digest.of(b'unknown')} known: its index is complete" in said


def test_a_target_that_is_no_chain(node: Snapshotter) -> None:
    """Another client's name of its own: nothing can be looked up."""
    assert _miss(node, {label.TARGET: "any name"}).startswith("no-layer-label: the labels name no layer digest")


@pytest.mark.parametrize("labels", ["digest and diff id", "digest and chain"])
def test_a_layer_that_was_compressed_anew(node: Snapshotter, layers: list[Digest], labels: str) -> None:
    """The digest is nowhere, the content is: by the diff id that newer engines send, by the chain with any."""
    other = Digest.of(b"other compression")
    target, diff_id = ("a", diff_id_of(layers[0])) if labels == "digest and diff id" else (str(chain_of(layers)), None)
    name = _served(node, pull(target, other, diff_id))
    assert node.stat(name).labels[label.LAYER_DIGEST] == str(other)


def test_the_layer_digest_comes_first(
    node: Snapshotter, repository: Published, layers: list[Digest], config: Config
) -> None:
    """Where the layer is there under its own digest, that one is shown."""
    again = repository.add("base, compressed anew")
    _served(node, pull(str(chain_of(layers[:1])), again))
    (shown,) = Path(config.root, "snapshots").glob("*/fs/*")
    assert shown.name == "base, compressed anew"


def test_a_layer_that_the_index_knows_and_that_is_gone(
    node: Snapshotter, repository: Published, layers: list[Digest]
) -> None:
    """The index is no proof: the layer is looked at, and its absence is a miss that names it."""
    repository.layout.layer(layers[0]).rename(repository.root / "elsewhere")
    said = _miss(node, {label.TARGET: str(chain_of(layers[:1]))})
    assert said == f"absent: layer {layers[0]} is not published in {NAME}"


def test_of_two_compressions_one_is_gone(node: Snapshotter, repository: Published, layers: list[Digest]) -> None:
    """The other one serves."""
    again = repository.add("base, compressed anew")
    repository.describe(again, diff_id_of(layers[0]))
    repository.publish("registry.example/again:1", [again])
    eventually(lambda: "is complete, with 2 images" in _miss(node, {label.TARGET: str(Digest.of(b"unknown"))}))
    repository.layout.layer(layers[0]).rename(repository.root / "elsewhere")
    _served(node, {label.TARGET: str(chain_of(layers[:1]))})


def test_without_an_index(repository: Published, layers: list[Digest], config: Config) -> None:
    """Switched off there is none: no file, and such requests are misses."""
    with opened(msgspec.structs.replace(config, index=False)) as verbs:
        said = _miss(verbs, {label.TARGET: str(chain_of(layers[:1]))})
        assert said.startswith("no-layer-label: ")
        assert said.endswith("there is no index")
    assert not Path(config.root, "index.sqlite").exists()


def test_the_first_repository_that_has_the_chain(repository: Published, layers: list[Digest], tmp_path: Path) -> None:
    """In order of priority, of those whose index knows it; the others are not asked."""
    other = HandMade(tmp_path / "other")
    repositories = (RepositoryConfig("other", str(other.root)), RepositoryConfig(NAME, str(repository.root)))
    config = Config(root=str(tmp_path / "root"), repositories=repositories, index_interval=0.1)
    with opened(config) as verbs:
        eventually(lambda: "is complete, with 1 images" in _miss(verbs, {label.TARGET: str(Digest.of(b"unknown"))}))
        name = _served(verbs, {label.TARGET: str(chain_of(layers[:1]))})
        assert verbs.stat(name).labels[label.REMOTE] == NAME
        assert _miss(verbs, {label.TARGET: str(Digest.of(b"unknown"))}).count("has no chain") == 2


def test_other_owners_are_still_refused(node: Snapshotter, layers: list[Digest]) -> None:
    """A request for mapped owners is a miss, whatever the index knows."""
    labels = {label.TARGET: str(chain_of(layers[:1])), label.MAPPINGS[0]: "0:1000:65536"}
    assert _miss(node, labels).startswith("userns: ")


@pytest.mark.fuse
def test_a_layer_found_by_chain_that_hangs(repository: Published, layers: list[Digest], tmp_path: Path) -> None:
    """It is looked at under the deadline as any other, and while it hangs the next request for it is answered at
    once; another one is served."""
    mounting.needs_fuse()
    config = Config(
        root=str(tmp_path / "root"), repository=NAME, absolute_mountpoint=str(tmp_path / "mount"), deadline=0.5,
        probe_interval=300, index_interval=0.2,
    )  # fmt: skip
    with mounting.standin(repository.root, tmp_path / "mount", kcache=60) as standin, opened(config) as verbs:
        eventually(lambda: "is complete of revision 1" in _miss(verbs, {label.TARGET: str(Digest.of(b"unknown"))}))
        standin.fault("stall", f"/.layers/{layers[0].hex[:2]}/{layers[0].hex}/layerfs")
        try:
            assert _miss(verbs, {label.TARGET: str(chain_of(layers[:1]))}).startswith("timeout: ")
            held = standin.held()
            assert _miss(verbs, {label.TARGET: str(chain_of(layers[:1]))}).startswith("timeout: ")
            assert standin.held() == held
            _served(verbs, {label.TARGET: str(chain_of(layers))})
        finally:
            standin.clear()


def test_a_target_is_a_chain_where_it_is_a_digest() -> None:
    """Nothing else is joined to anything or looked up."""
    chain = chain_id([Digest.of(b"a"), Digest.of(b"b")])
    wanted = wanted_layer({label.TARGET: str(chain)})
    assert wanted
    assert (wanted.chain, wanted.problem) == (chain, None)
    for target in ("sha256:x", "x", f"sha512:{chain.hex}", str(chain).upper(), f"{chain}/.."):
        wanted = wanted_layer({label.TARGET: target})
        assert wanted
        assert wanted.chain is None
        assert wanted.problem
