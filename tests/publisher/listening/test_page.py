"""What docs/publisher.md says of webhooks: its command and its table of answers; a registry's own notifications with
the configuration that the page shows."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import yaml

from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Reference
from publisher.listening import receiving
from tests.docs.pages import PROJECT, walk_blocks
from tests.engines.registry import Registry
from tests.images.ocilayout import Image
from tests.images.tarlayer import File, layer_tar
from tests.publisher.listening.listener import Listener
from tests.publisher.publishing import command, make_image

PAGE = "docs/publisher.md"
SECRET = "THE-SECRET"


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    """As it is typed, but for the places of the test; `--once` ends it."""
    (line,) = [
        line for block in walk_blocks() if block.page == PAGE and block.language == "sh"
        for line in block.commands if line.split()[1] == "listen"
    ]  # fmt: skip
    (tmp_path / "repository").mkdir()
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "secret").chmod(0o600)
    here = line.replace("/srv/", f"{tmp_path}/").replace("/etc/cvmfs-publisher/", f"{tmp_path}/")
    words = [*shlex.split(here)[1:], "--queue", str(tmp_path / "queue"), "--once"]
    done = subprocess.run(command(*words), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_its_answers() -> None:
    """Every status that the code gives has its line, and no other."""
    table = re.findall(r"^\| ([0-9, ]+) \|", (PROJECT / PAGE).read_text(), re.MULTILINE)
    code = re.findall(r"HTTPStatus\.([A-Z_]+)", Path(receiving.__file__).read_text())
    statuses = {getattr(HTTPStatus, name).value for name in code}
    assert {int(number) for cell in table for number in cell.split(", ")} == statuses


def notifications(address: str) -> dict[str, Any]:
    """The page's configuration, with the address of the test."""
    (block,) = [block for block in walk_blocks() if block.page == PAGE and block.language == "yaml"]
    settings: dict[str, Any] = yaml.safe_load(block.text.replace("127.0.0.1:9380", address))
    return settings


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return make_image(tmp_path / "image", layer_tar([File("f", b"x")]))


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry that runs twice: its first start finds its port, the second tells the listener."""
    found = Registry(tmp_path / "registry")
    with found:
        pass
    yield found
    found.stop()


@pytest.mark.root
@pytest.mark.engine
def test_a_real_registry_tells(registry: Registry, image: Image, tmp_path: Path) -> None:
    """skopeo pushes, and the image is published: what is not allowed in between holds up nothing."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    allow = f"http://{registry.address}/group/*"
    with Listener(tmp_path, allow, ("--secret-file", str(secret))) as listener:
        registry.settings = notifications(listener.address)
        registry.start()
        registry.push(image.path, image.ref, "other/image:1")
        name = registry.push(image.path, image.ref, "group/image:1")
        listener.wait_for(f"published {name}")
        assert Layout(listener.repository).manifest_json(Reference.parse(name)).is_file()
        assert any(f"passed over '{registry.address}/other/image:1'" in line for line in listener.said)


@pytest.mark.root
@pytest.mark.engine
def test_a_listener_that_was_away_hears_of_it(registry: Registry, image: Image, tmp_path: Path) -> None:
    """The registry sends again what nobody took: a push while the listener is down is published when it is back."""
    with Listener(tmp_path, f"http://{registry.address}/*") as listener:
        settings = notifications(listener.address)
        settings["notifications"]["endpoints"][0] |= {"threshold": 1, "backoff": "100ms"}
        registry.settings = settings
        registry.start()
        place = listener.address
        listener.kill()
        name = registry.push(image.path, image.ref, "group/image:1")
        listener.start(place)
        listener.wait_for(f"published {name}")
