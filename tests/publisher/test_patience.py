"""A registry that stumbles is asked again, one that breaks off in a blob for the rest; neither for ever."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmfsrepo.errors import Unavailable
from cvmfsrepo.oci import parse_manifest
from publisher.opening import open_source
from publisher.registry.patience import Patience, Throttled, asked_for
from tests.images.ocilayout import Image, write_image
from tests.images.tarlayer import File, layer_tar
from tests.publisher.publishing import AMD64
from tests.publisher.stub_registry import Stub, stub_registry


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return write_image(tmp_path / "image", [layer_tar([File("f", bytes(range(256)) * 4000)])], "registry.example/a:1")


@pytest.fixture
def stub(image: Image) -> Iterator[Stub]:
    with stub_registry(image) as running:
        yield running


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_passes_is_waited_for(stub: Stub, status: int, waits: list[float]) -> None:
    """Two bad answers and a good one are a good one; the second wait is longer than the first was planned."""
    stub.behaviour.stumbles["manifests/1"] = [status, status]
    open_source(stub.source, AMD64)
    assert len(waits) == 2
    assert 0.25 <= waits[0] <= 0.75
    assert 0.5 <= waits[1] <= 1.5


def test_a_registry_says_how_long(stub: Stub, waits: list[float]) -> None:
    """Retry-After is kept to."""
    stub.behaviour.stumbles["manifests/1"], stub.behaviour.retry_after = [429], "7"
    open_source(stub.source, AMD64)
    assert waits == [7.0]


def test_a_registry_that_wants_minutes_is_told_of(stub: Stub, waits: list[float]) -> None:
    """Nobody sits through them: the error carries how long it is."""
    stub.behaviour.stumbles["manifests/1"], stub.behaviour.retry_after = [429], "600"
    with pytest.raises(Throttled, match="asks to wait until") as raised:
        open_source(stub.source, AMD64)
    assert raised.value.seconds == pytest.approx(600, abs=60)
    assert waits == []


def _read(stub: Stub, cut_after: int, cuts: int = 1000, ranges: bool = False) -> bytes:
    """The layer, of a registry that breaks off; manifest and config came whole."""
    source = open_source(stub.source, AMD64)
    behaviour, content = stub.behaviour, b""
    behaviour.cut_after, behaviour.cuts, behaviour.ranges = cut_after, cuts, ranges
    behaviour.requests.clear()
    (layer,) = parse_manifest(source.manifest).layers
    with source.open_blob(layer) as blob:
        while chunk := blob.read(100_000):
            content += chunk
    return content


def test_a_blob_goes_on_where_it_broke_off(stub: Stub, image: Image) -> None:
    """Three times, and no byte comes twice."""
    whole = image.blob(image.layers[0]).read_bytes()
    assert _read(stub, len(whole) // 5, cuts=3, ranges=True) == whole
    assert len(stub.behaviour.requests) == 1 + 3


def test_a_registry_without_ranges_ends_it(stub: Stub) -> None:
    """Its whole blob again would not be the rest."""
    with pytest.raises(Unavailable):
        _read(stub, 100, cuts=1)
    assert len(stub.behaviour.requests) == 2


def test_a_blob_that_always_breaks_ends_too(stub: Stub) -> None:
    """Some bytes each time are not progress for ever."""
    with pytest.raises(Unavailable):
        _read(stub, 10, ranges=True)
    assert len(stub.behaviour.requests) == 1 + 5


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("", None),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("-1", None),
        ("soon", None),
        ("9" * 11, 3600.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 2215 07:28:00 GMT", 3600.0),
    ],
)
def test_retry_after(text: str | None, seconds: float | None) -> None:
    """Seconds and dates are read; an hour is the most that is believed."""
    assert asked_for(text) == seconds


def test_patience_is_bounded() -> None:
    """In tries, in each wait, and in what a registry may ask for."""
    patience = Patience(tries=3, first=1.0, longest=4.0)
    assert patience.delay(3, None) is None
    assert patience.delay(1, 5.0) is None
    assert all((delay := patience.delay(tried, None)) is not None and delay <= 6.0 for tried in (1, 2))
    assert patience.delay(1, 3.0) == pytest.approx(3.0, abs=0.001)
