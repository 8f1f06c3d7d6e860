"""What a miss means is said by image, and every miss has a reason that a person finds."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import AlreadyExists, FailedPrecondition, NotFound
from cvmfsrepo.reasons import Reason
from snapshotter import labels as label
from snapshotter.config import Config
from snapshotter.policy import MOST_WAITING, WAIT_STEP, Policies, Policy
from snapshotter.server import MANY_WORKERS, opened
from snapshotter.snapshots import Kind
from snapshotter.snapshotter import Snapshotter
from tests import mounting
from tests.mounting import Standin
from tests.snapshotter.daemon import Daemon
from tests.snapshotter.layers import NAME, HandMade, diff_id_of, pull
from tests.snapshotter.nodes import eventually
from tests.suites.contract import Verbs, fresh

IMAGE = "registry.example.org/atlas/base:1"
NONE = Digest.of(b"none")
REQUIRE = Policy(images=("*/atlas/*",), miss="require")
WAIT = Policy(images=("*",), miss="wait", wait=30.0)


@contextmanager
def deciding(config: Config, *policies: Policy) -> Iterator[Snapshotter]:
    """A snapshotter with these policies."""
    with opened(msgspec.structs.replace(config, policy=policies)) as verbs:
        yield verbs


def missed(verbs: Verbs, labels: dict[str, str]) -> str:
    """The reason of a Prepare that is answered as for any local layer."""
    key = fresh("extract")
    mounts = verbs.prepare(key, "", labels)
    info = verbs.stat(key)
    assert info.kind is Kind.ACTIVE
    assert verbs.mounts(key) == mounts
    return info.labels[label.MISS]


def is_hit(verbs: Verbs, labels: dict[str, str]) -> bool:
    """Whether a Prepare is served; its snapshot is removed where not."""
    key = fresh("extract")
    try:
        verbs.prepare(key, "", labels)
    except AlreadyExists:
        return True
    verbs.remove(key)
    return False


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The fields of each warning so far."""
    return [record.__dict__["fields"] for record in caplog.records if record.levelno >= logging.WARNING]


# --- which policy ---


@pytest.mark.parametrize(
    ("image", "number"),
    [
        ("registry.example.org/atlas/base:1", 0),
        ("registry.example.org/atlas/deep/er@sha256:0", 0),
        ("registry.example.org/cms/base:1", 1),
        ("registry.example.org/CMS/base:1", 2),
        ("docker.io/library/debian:13", 2),
        ("", None),
    ],
)
def test_the_first_policy_that_names_the_image_counts(image: str, number: int | None) -> None:
    """Patterns are of whole references, with their case; no image takes the default, whatever the patterns."""
    ordered = (
        Policy(images=("nothing", "*/atlas/*"), miss="require"),
        Policy(images=("*/cms/*",)),
        Policy(images=("*",), miss="require"),
    )
    found = Policies(ordered).of_image(image)
    assert found.miss == "fallback" if number is None else found is ordered[number]


def test_without_a_policy_a_miss_is_downloaded(config: Config, repository: HandMade) -> None:
    """The default."""
    with opened(config) as verbs:
        assert missed(verbs, pull("a", NONE, image=IMAGE)).startswith("absent: ")


def test_a_prepare_without_an_image_takes_the_default(config: Config, repository: HandMade) -> None:
    """Although a policy names all images."""
    labels = {label.TARGET: "a", label.LAYER_DIGEST: str(NONE)}
    with deciding(config, Policy(images=("*",), miss="require")) as verbs:
        assert missed(verbs, labels).startswith("absent: ")


@pytest.mark.parametrize("policy", [Policy(images=("*",), miss="require"), WAIT], ids=["require", "wait"])
def test_a_prepare_that_is_no_part_of_a_pull_is_never_a_miss(
    config: Config, repository: HandMade, caplog: pytest.LogCaptureFixture, policy: Policy
) -> None:
    """Without `snapshot.ref`: no line, no label, no count, no wait, whatever the other labels say."""
    began = time.monotonic()
    with deciding(config, policy) as verbs:
        labels = {label.IMAGE: IMAGE, label.LAYER_DIGEST: str(NONE)}
        verbs.prepare("key", "", labels)
        assert verbs.stat("key").labels == labels
        assert (verbs.outcomes.misses, verbs.outcomes.hits) == ({}, {})
    assert "remote prepare" not in caplog.messages
    assert time.monotonic() - began < WAIT.wait


# --- fallback ---


def test_a_fallback_is_one_warning(config: Config, repository: HandMade, caplog: pytest.LogCaptureFixture) -> None:
    """With all that a person needs to look further."""
    with opened(config) as verbs:
        verbs.prepare("key", "", pull("target", NONE, image=IMAGE))
    (fields,) = warnings_of(caplog)
    detail = f"layer {NONE} is not published in {NAME}"
    expected = {
        "key": "key", "parent": "", "target": "target", "image": IMAGE, "layer": str(NONE), "outcome": "miss",
        "repository": NAME,
    }  # fmt: skip
    assert fields.pop("seconds") < 5
    assert fields == expected | {"reason": "absent", "detail": detail}


# --- require ---


def test_a_required_layer_refuses_the_pull(config: Config, repository: HandMade) -> None:
    """With image, layer, reason and what to do; nothing is left behind, and it is counted."""
    with deciding(config, REQUIRE) as verbs:
        with pytest.raises(FailedPrecondition) as refused:
            verbs.prepare("key", "", pull("a", NONE, image=IMAGE))
        assert str(refused.value) == (
            f"image '{IMAGE}': layer {NONE} is not served (absent: layer {NONE} is not published in {NAME}) and the"
            " policy is to require it; publish the layer or wait for the repository, or change [[policy]] in the"
            " configuration"
        )
        with pytest.raises(NotFound):
            verbs.stat("key")
        assert os.listdir(Path(config.root, "snapshots")) == []
        assert verbs.outcomes.misses == {Reason.ABSENT: 1}


@pytest.mark.root
def test_a_required_layer_is_served(config: Config, repository: HandMade) -> None:
    """As soon as it is published, and other images are not concerned."""
    with deciding(config, REQUIRE) as verbs:
        assert missed(verbs, pull("a", NONE)).startswith("absent: ")
        repository.add("none")
        assert is_hit(verbs, pull("a", NONE, image=IMAGE))


@pytest.mark.parametrize("labels", [{label.TARGET: "t"}, {label.TARGET: "t", label.LAYER_DIGEST: "sha256:x"}])
def test_a_required_layer_without_a_name(config: Config, repository: HandMade, labels: dict[str, str]) -> None:
    """Labels that do not say which layer are a miss like any other; the text names the target."""
    with deciding(config, REQUIRE) as verbs, pytest.raises(FailedPrecondition, match="layer of the target t is not"):
        verbs.prepare("key", "", labels | {label.IMAGE: IMAGE})


def test_a_required_layer_by_its_diff_id(config: Config, repository: HandMade) -> None:
    """Where that is all that is known it is what the text names."""
    diff_id = diff_id_of(NONE)
    with deciding(config, REQUIRE) as verbs, pytest.raises(FailedPrecondition, match=f"layer {diff_id} is not"):
        verbs.prepare("key", "", pull("a", diff_id=diff_id, image=IMAGE))


@pytest.mark.parametrize(
    ("to_top", "allowed"), [(0, False), (1, True), (2, True), (3, False)], ids=["not said", "top", "second", "third"]
)
@pytest.mark.parametrize("kind", ["require", pytest.param("wait", marks=pytest.mark.slow)])
def test_the_topmost_layers_may_be_downloaded(
    config: Config, repository: HandMade, to_top: int, allowed: bool, kind: str
) -> None:
    """With `allow-top = 2` the two topmost, as containerd's label counts them; not where it does not."""
    policy = Policy(images=("*",), miss="require", allow_top=2)
    if kind == "wait":
        policy = Policy(images=("*",), miss="wait", wait=0.01, then="require", allow_top=2)
    labels = pull("a", NONE, image=IMAGE)
    if to_top:
        labels[label.IMAGE_LAYERS] = ",".join([str(NONE)] * to_top)
    with deciding(config, policy) as verbs:
        if allowed:
            assert missed(verbs, labels).startswith("absent: ")
        else:
            with pytest.raises(FailedPrecondition):
                verbs.prepare("key", "", labels)


@pytest.mark.root
def test_refused_on_the_wire(tmp_path: Path, repository: HandMade) -> None:
    """FAILED_PRECONDITION, from a configuration file."""
    tables = '[[policy]]\nimages = ["*/atlas/*"]\nmiss = "require"\n'
    with (
        Daemon(tmp_path / "root", absolute_mountpoint=repository.root, tables=tables) as daemon,
        daemon.client() as client,
        pytest.raises(FailedPrecondition, match=f"{IMAGE}.*{NONE}.*absent: .*publish"),
    ):
        client.prepare("key", "", pull("a", NONE, image=IMAGE))


# --- wait ---


@contextmanager
def after(seconds: float, work: Callable[[], object]) -> Iterator[None]:
    """Does it some time while the block runs."""
    timer = threading.Timer(seconds, work)
    timer.start()
    try:
        yield
    finally:
        timer.join()


@pytest.mark.root
def test_a_layer_that_appears_while_it_is_waited_for(config: Config, repository: HandMade) -> None:
    """It is served, soon after it came, and counted as a hit and nothing else."""
    with deciding(config, WAIT) as verbs, after(0.3, lambda: repository.add("none")):
        began = time.monotonic()
        assert is_hit(verbs, pull("a", NONE, image=IMAGE))
        assert 0.3 <= time.monotonic() - began < 0.3 + 5 * WAIT_STEP
        assert (verbs.outcomes.hits, verbs.outcomes.misses) == ({NAME: 1}, {})


@pytest.mark.root
def test_a_mount_that_comes_back_while_it_is_waited_for(config: Config, tmp_path: Path) -> None:
    """The repository is away at first."""
    elsewhere = tmp_path / "elsewhere"
    HandMade(elsewhere).add("none")
    with deciding(config, WAIT) as verbs, after(0.3, lambda: elsewhere.rename(config.absolute_mountpoint)):
        assert is_hit(verbs, pull("a", NONE, image=IMAGE))


@pytest.mark.parametrize("then", [pytest.param("fallback", marks=pytest.mark.slow), "require"])
def test_a_wait_that_ends_in_vain(config: Config, repository: HandMade, then: Any) -> None:
    """After so many seconds the other policy holds, and the miss is counted once."""
    policy, began = Policy(images=("*",), miss="wait", wait=0.6, then=then), time.monotonic()
    with deciding(config, policy) as verbs:
        if then == "fallback":
            assert missed(verbs, pull("a", NONE)).startswith("absent: ")
        else:
            with pytest.raises(FailedPrecondition):
                verbs.prepare("key", "", pull("a", NONE))
        assert verbs.outcomes.misses == {Reason.ABSENT: 1}
    assert 0.6 <= time.monotonic() - began < 0.6 + 5 * WAIT_STEP


def test_labels_that_can_never_be_served_are_not_waited_for(config: Config, repository: HandMade) -> None:
    """They will not change."""
    began = time.monotonic()
    with deciding(config, WAIT) as verbs:
        assert missed(verbs, pull("a")).startswith("no-layer-label: ")
        assert missed(verbs, pull("a", "x")).startswith("bad-label: ")
    assert time.monotonic() - began < WAIT.wait / 2


@pytest.mark.slow
@pytest.mark.root
def test_waiting_does_not_use_up_the_threads(tmp_path: Path, repository: HandMade) -> None:
    """Of more Prepares than the server has threads only so many wait; the rest take what comes after the wait, and
    other calls are answered meanwhile. When the layer comes those that waited are hits."""
    count, tables = MANY_WORKERS + 20, '[[policy]]\nimages = ["*"]\nmiss = "wait"\nwait = 120\nthen = "require"\n'
    with (
        Daemon(tmp_path / "root", absolute_mountpoint=repository.root, tables=tables) as daemon,
        ThreadPoolExecutor(count) as callers,
    ):
        clients = [daemon.client() for _ in range(8)]

        def prepare(number: int) -> str:
            try:
                clients[number % 8].prepare(f"key-{number}", "", pull(f"{number}", NONE))
            except (AlreadyExists, FailedPrecondition) as error:
                return type(error).__name__
            return "prepared"

        calls = [callers.submit(prepare, number) for number in range(count)]
        eventually(lambda: sum(call.done() for call in calls) >= count - MOST_WAITING, 30)
        assert {call.result() for call in calls if call.done()} == {"FailedPrecondition"}
        for number in range(50):
            clients[0].prepare(f"other-{number}", "", {})
            clients[0].remove(f"other-{number}")
        assert sum(not call.done() for call in calls) == MOST_WAITING
        repository.add("none")
        ended, _ = wait(calls, 30)
        assert sorted(call.result() for call in ended).count("AlreadyExists") == MOST_WAITING


# --- reasons ---


@dataclass(slots=True)
class Trouble:
    """A published layer on a stand-in, and what is done to make the next Prepare of it miss."""

    repository: HandMade
    standin: Standin
    verbs: Snapshotter
    layer: Digest
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return f"/.layers/{self.layer.hex[:2]}/{self.layer.hex}"

    def remove_layer(self) -> None:
        self.standin.publish(hide=[self.path])

    def damage_record(self) -> None:
        self.repository.write_record(self.layer, b"damaged")

    def open_the_breaker(self) -> None:
        self.standin.fault("stall")
        eventually(lambda: missed(self.verbs, pull("t", NONE)).startswith("breaker-open"))

    def without_labels(self) -> None:
        del self.labels[label.LAYER_DIGEST]


CAUSES: list[tuple[Reason, Callable[[Trouble], object]]] = [
    (Reason.ABSENT, Trouble.remove_layer),
    (Reason.UNMOUNTED, lambda trouble: trouble.standin.vanish()),
    (Reason.UNMOUNTED, lambda trouble: trouble.standin.kill()),
    (Reason.TIMEOUT, lambda trouble: trouble.standin.fault("stall", trouble.path)),
    (Reason.IO_ERROR, lambda trouble: trouble.standin.fault("catalog", f"{trouble.path}/layerfs")),
    (Reason.IO_ERROR, lambda trouble: trouble.standin.fault("eio", trouble.path)),
    (Reason.DENIED, lambda trouble: trouble.standin.fault("eacces", trouble.path)),
    (Reason.STALE, lambda trouble: trouble.standin.fault("estale", trouble.path)),
    (Reason.BREAKER_OPEN, Trouble.open_the_breaker),
    (Reason.NO_LAYER_LABEL, Trouble.without_labels),
    (Reason.BAD_LABEL, lambda trouble: trouble.labels.update({label.LAYER_DIGEST: "sha256:x"})),
    (Reason.MARKERS_UNAVAILABLE, Trouble.damage_record),
    (Reason.USERNS, lambda trouble: trouble.labels.update({label.MAPPINGS[0]: "0:100000:65536"})),
]


@pytest.fixture
def trouble(tmp_path: Path, repository: HandMade, config: Config) -> Iterator[Trouble]:
    mounting.needs_fuse()
    layer = repository.add("base")
    repository.record(layer)
    with mounting.standin(repository.root, tmp_path / "mount") as standin:
        there = msgspec.structs.replace(
            config, absolute_mountpoint=str(standin.mountpoint), deadline=0.5, probe_interval=0.3
        )
        with opened(there) as verbs:
            yield Trouble(repository, standin, verbs, layer, pull("target", layer, image=IMAGE))
        if standin.process.poll() is None and mounting.mounts_at(standin.mountpoint):
            standin.clear()


def test_every_reason_has_a_cause() -> None:
    """No reason is only a word: the set is closed from both sides."""
    assert {reason for reason, _ in CAUSES} == set(Reason)


@pytest.mark.root
@pytest.mark.fuse
@pytest.mark.parametrize(("reason", "cause"), CAUSES, ids=[f"{reason}-{n}" for n, (reason, _) in enumerate(CAUSES)])
def test_a_reason_is_found_wherever_one_looks(
    trouble: Trouble, caplog: pytest.LogCaptureFixture, reason: Reason, cause: Callable[[Trouble], object]
) -> None:
    """In the log line of the Prepare, with the snapshot in Stat and List, also after its Commit, and in the counts."""
    cause(trouble)
    caplog.clear()
    verbs, counted = trouble.verbs, trouble.verbs.outcomes.misses
    verbs.prepare("key", "", trouble.labels)
    (fields,) = [fields for fields in warnings_of(caplog) if fields.get("key") == "key"]
    assert (fields["reason"], fields["image"]) == (str(reason), IMAGE)
    assert verbs.outcomes.misses == counted | {reason: counted.get(reason, 0) + 1}
    verbs.commit("name", "key", {"other": "labels"})
    (info,) = verbs.walk([f'labels."{label.MISS}"~=/^{reason}: /,name==name'])
    assert info.labels == {"other": "labels", label.MISS: f"{reason}: {fields['detail']}"} == verbs.stat("name").labels
