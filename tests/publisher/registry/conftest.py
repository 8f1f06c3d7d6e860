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


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Its layer is of several pieces as they are read. Tests only read it."""
    content = random.Random(1).randbytes(3 * CHUNK)
    return make_image(tmp_path_factory.mktemp("registry") / "image", layer_tar([File("f", content)]))


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
