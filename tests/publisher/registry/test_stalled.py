"""A registry that stops in the middle of a layer."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.oci import Descriptor, Reference, parse_manifest
from publisher.registry.registries import Registries
from publisher.unpacking.stream import TarBytes, VerifiedBlob
from tests.images.ocilayout import Image
from tests.publisher.registry.standin import Answer, Asked, Standin

LONGEST = 20.0
"""Seconds: a read of a registry that does not answer takes longer."""


@pytest.fixture
def stalled(image: Image, registry: Standin) -> Iterator[threading.Event]:
    """The layer's bytes are answered when the test has ended; set once they are asked for."""
    asked, ended, path = threading.Event(), threading.Event(), f"/v2/group/image/blobs/{image.layers[0]}"

    def answer(_: Asked) -> Answer:
        asked.set()
        return Answer(image.blob(image.layers[0]).read_bytes()[:1000], length=1 << 20)

    registry.answers[path] = answer
    registry.before_close = ended
    yield asked
    ended.set()


def layer_of(image: Image) -> Descriptor:
    return parse_manifest(image.blob(image.manifest).read_bytes()).layers[0]


def test_nobody_waits_for_it_who_wants_no_more(image: Image, registry: Standin, stalled: threading.Event) -> None:
    """A command that is told to end does, while a thread reads ahead; and the thread ends with it."""
    threads = threading.active_count()
    with Registries() as registries:
        blobs = registries.blobs(Reference.parse(f"{registry.address}/group/image:1"))
        began = time.monotonic()
        with blobs.open(layer_of(image)) as raw:
            blob = VerifiedBlob(raw, layer_of(image), lambda count: None)
            with closing(TarBytes(blob, Digest.parse(image.layers[0]))):
                assert stalled.wait(LONGEST)
        assert time.monotonic() - began < LONGEST
    while threading.active_count() > threads + 1 and time.monotonic() - began < LONGEST:
        time.sleep(0.05)
    assert not [thread for thread in threading.enumerate() if thread.name == "read ahead"]


def test_nobody_waits_for_it_who_closes_the_layer(image: Image, registry: Standin, stalled: threading.Event) -> None:
    """Whatever still reads of it."""
    failures = list[OSError | ValueError]()

    def read(raw: object) -> None:
        try:
            while raw.read(1 << 20):  # type: ignore[attr-defined]
                pass
        except (OSError, ValueError) as error:
            failures.append(error)

    with Registries() as registries:
        blobs = registries.blobs(Reference.parse(f"{registry.address}/group/image:1"))
        with blobs.open(layer_of(image)) as raw:
            reading = threading.Thread(target=read, args=(raw,), daemon=True)
            reading.start()
            assert stalled.wait(LONGEST)
            time.sleep(0.2)
        reading.join(LONGEST)
    assert not reading.is_alive()
    assert failures
