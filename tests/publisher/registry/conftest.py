"""An image, two stand-ins of registries, and a home without logins."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from publisher.unpacking.stream import CHUNK
from tests.images.ocilayout import Image
from tests.images.tarlayer import File, layer_tar
from tests.publisher.publishing import make_image
from tests.publisher.registry.standin import Standin, standing


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where logins are looked for; whoever runs the tests may have some."""
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG", "DUCC_AUTH_REGISTRIES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """Its layer is of several pieces as they are read."""
    return make_image(tmp_path / "image", layer_tar([File("f", random.Random(1).randbytes(3 * CHUNK))]))


@pytest.fixture
def registry(image: Image) -> Iterator[Standin]:
    """Has the image as `group/image:1`."""
    with standing(Standin()) as served:
        served.serve(image)
        yield served


@pytest.fixture
def other() -> Iterator[Standin]:
    """Has nothing."""
    with standing(Standin()) as served:
        yield served
