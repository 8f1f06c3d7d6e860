"""Wish lists over a real docker-registry: patterns over its catalogue and tags, and what a second pass asks it."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Reference
from tests.engines.registry import Registry
from tests.images.tarlayer import File, layer_tar
from tests.publisher.publishing import REF, make_image, make_repository, run, state

pytestmark = [pytest.mark.engine, pytest.mark.root]

NAMES = ("atlas/one:1", "atlas/one:2", "atlas/deep/two:1", "cms/three:1")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """With four images, in three repositories of two projects."""
    directory = tmp_path_factory.mktemp("registry")
    with Registry(directory / "registry") as running:
        for number, name in enumerate(NAMES):
            image = make_image(directory / f"image{number}", layer_tar([File("f", name.encode())]))
            running.push(image.path, REF, name)
        yield running


def one_pass(tmp_path: Path, *wishes: str) -> dict[str, str]:
    """Outcomes by image, of a process of its own."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("version: 1\ninput:\n" + "".join(f" - 'http://{wish}'\n" for wish in wishes))
    where = ("--repository", str(tmp_path / "repository"), "--state", str(tmp_path / "state"))
    return {one["image"]: one["outcome"] for one in json.loads(run("wishlist", str(recipe), *where, "--json").stdout)}


def asked(registry: Registry, mark: int) -> list[str]:
    """Every request since a mark, but for those by which the log is read."""
    registry.mark()
    lines = re.findall(r'"((?:GET|HEAD) \S+) HTTP', registry.log.read_bytes()[mark:].decode())
    return sorted(line for line in lines if "barrier" not in line)


def test_a_project_as_a_wish(registry: Registry, tmp_path: Path) -> None:
    """All of it is published; the second pass costs its lists and one HEAD request an image, and changes nothing."""
    make_repository(tmp_path / "repository")
    images = {f"{registry.address}/{name}" for name in NAMES if name.startswith("atlas/")}
    assert one_pass(tmp_path, f"{registry.address}/atlas/*") == dict.fromkeys(images, "published")
    before, mark = state(tmp_path / "repository"), registry.mark()
    assert one_pass(tmp_path, f"{registry.address}/atlas/*") == dict.fromkeys(images, "present")
    lists = ["/v2/_catalog?n=1000", "/v2/atlas/deep/two/tags/list?n=1000", "/v2/atlas/one/tags/list?n=1000"]
    heads = [f"/v2/{name.replace(':', '/manifests/')}" for name in NAMES if name.startswith("atlas/")]
    assert asked(registry, mark) == sorted([*(f"GET {path}" for path in lists), *(f"HEAD {path}" for path in heads)])
    assert state(tmp_path / "repository") == before


def test_patterns_of_tags_and_a_whole_registry(registry: Registry, tmp_path: Path) -> None:
    """What does not match is not published."""
    make_repository(tmp_path / "repository")
    assert list(one_pass(tmp_path, f"{registry.address}/atlas/one:2*")) == [f"{registry.address}/atlas/one:2"]
    assert set(one_pass(tmp_path, f"{registry.address}/*:1")) == {
        f"{registry.address}/{name}" for name in NAMES if name.endswith(":1")
    }


def test_a_registry_that_lists_few_at_a_time(registry: Registry, tmp_path: Path) -> None:
    """It refuses to be asked for a thousand names: then it is asked for as many as it likes, page by page."""
    make_repository(tmp_path / "repository")
    shutil.copytree(registry.directory / "storage", tmp_path / "small/storage")
    with Registry(tmp_path / "small", most_listed=2) as small:
        found = set(one_pass(tmp_path, f"{small.address}/*"))
        assert found == {f"{small.address}/{name}" for name in NAMES}
        pages = [line for line in asked(small, 0) if "_catalog" in line]
    assert [page.partition("&")[0] for page in pages] == [
        "GET /v2/_catalog", "GET /v2/_catalog?last=atlas%2Fone", "GET /v2/_catalog?n=1000",
    ]  # fmt: skip


def test_an_image_that_is_named_costs_one_request(registry: Registry, tmp_path: Path) -> None:
    """No list is asked for."""
    make_repository(tmp_path / "repository")
    one_pass(tmp_path, f"{registry.address}/cms/three:1")
    mark = registry.mark()
    one_pass(tmp_path, f"{registry.address}/cms/three:1")
    assert asked(registry, mark) == ["HEAD /v2/cms/three/manifests/1"]


def test_a_mirror_that_is_a_real_registry(registry: Registry, tmp_path: Path) -> None:
    """The image is published by the name of the registry that nobody can reach, with the mirror's bytes."""
    make_repository(tmp_path / "repository")
    settings = tmp_path / "publisher.toml"
    settings.write_text(f'[registries."registry.invalid"]\nmirrors = ["{registry.address}/atlas"]\n')
    where = ("--repository", str(tmp_path / "repository"), "--registries", str(settings))
    done = run("image", "docker://registry.invalid/one:1", *where)
    assert done.returncode == 0, done.stderr
    assert Layout(tmp_path / "repository").image_pointer(Reference.parse("registry.invalid/one:1")).is_file()
