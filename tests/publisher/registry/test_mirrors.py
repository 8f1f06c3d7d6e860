"""Mirrors are asked first, believed no more than anybody, and shown no login but their own."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmfsrepo.errors import ContractError, DataLoss, NotFound
from cvmfsrepo.oci import Reference, parse_manifest
from publisher.opening import open_source
from publisher.publishing.publish import publish_image
from publisher.registry.registries import Registries
from publisher.registry.settings import RegistrySettings, Settings
from publisher.source import Source
from publisher.unpacking.stream import CHUNK
from tests.images.ocilayout import Image
from tests.publisher.crafting import digest
from tests.publisher.publishing import AMD64, make_repository
from tests.publisher.registry.standin import Answer, Asked, Standin
from tests.publisher.stub_registry import LOGIN


@pytest.fixture
def mirror(other: Standin) -> Standin:
    return other


@pytest.fixture
def registries(registry: Standin, mirror: Standin) -> Iterator[Registries]:
    with Registries(Settings({registry.address: RegistrySettings(mirrors=(f"{mirror.address}/hub",))})) as asked:
        yield asked


def opened(registries: Registries, registry: Standin) -> Source:
    return registries.open(Reference.parse(f"{registry.address}/group/image:1"), AMD64)


def layer(source: Source) -> str:
    with source.open_blob(parse_manifest(source.manifest).layers[0]) as blob:
        return digest(blob.readall() or b"")


def test_a_mirror_gives_all(registries: Registries, registry: Standin, mirror: Standin, image: Image) -> None:
    """Below its prefix; the image keeps its name, and the registry is not asked."""
    mirror.serve(image, "hub/group/image")
    source = opened(registries, registry)
    assert str(source.reference) == f"{registry.address}/group/image:1"
    assert layer(source) == image.layers[0]
    found = registries.find_digest(Reference.parse(f"{registry.address}/group/image:1"))
    assert str(found) == image.manifest
    assert registry.asked == []


@pytest.mark.parametrize("text", ["debian:12", "docker.io/debian:12", "docker.io/library/debian:12"])
def test_an_image_of_docker_hub_itself(mirror: Standin, image: Image, text: str) -> None:
    """Is in its `library`, by whichever of its names, as for every client."""
    mirror.serve(image, "hub/library/debian", "12")
    settings = Settings({"docker.io": RegistrySettings(mirrors=(f"{mirror.address}/hub",))})
    with Registries(settings) as asked:
        assert str(open_source(f"docker://{text}", AMD64, asked).reference) == "docker.io/library/debian:12"


def test_a_mirror_that_lacks_is_passed_over(
    registries: Registries, registry: Standin, image: Image, caplog: pytest.LogCaptureFixture
) -> None:
    """The first lack is a warning; one lacks many, so the next ones are not."""
    caplog.set_level(logging.INFO)
    source = opened(registries, registry)
    assert (digest(source.manifest), layer(source)) == (image.manifest, image.layers[0])
    told = [record for record in caplog.records if "passed over" in record.getMessage()]
    assert [record.levelname for record in told] == ["WARNING", "INFO", "INFO"]
    assert "has no manifest 1" in told[0].getMessage()


@pytest.mark.parametrize("status", [401, 403, 429, 500])
def test_a_mirror_that_fails_is_passed_over(
    registries: Registries, registry: Standin, mirror: Standin, image: Image, status: int
) -> None:
    """And one that is overloaded is not asked for the rest."""
    mirror.answers["/v2/hub/group/image/manifests/1"] = Answer(status=status)
    assert digest(opened(registries, registry).manifest) == image.manifest
    before = len(mirror.asked)
    assert digest(opened(registries, registry).manifest) == image.manifest
    assert (len(mirror.asked) > before) == (status < 429)


def test_a_mirror_that_is_away_is_tried_once(registry: Standin, image: Image, caplog: pytest.LogCaptureFixture) -> None:
    """Not each image waits for it."""
    away = Settings({registry.address: RegistrySettings(mirrors=("127.0.0.1:1",))})
    with Registries(away) as registries:
        for _ in range(3):
            assert digest(opened(registries, registry).manifest) == image.manifest
    assert len([record for record in caplog.records if "mirror 127.0.0.1:1 is passed over" in record.getMessage()]) == 1


def test_all_fail(registries: Registries, registry: Standin) -> None:
    """The error is that of the registry itself."""
    registry.answers.clear()
    with pytest.raises(NotFound, match=f"in {registry.address}"):
        opened(registries, registry)


def test_a_mirror_with_another_manifest_or_config(
    registries: Registries, registry: Standin, mirror: Standin, image: Image
) -> None:
    """By its digest it is found out at once, and the registry is asked."""
    mirror.serve(image, "hub/group/image")
    mirror.answers[f"/v2/hub/group/image/manifests/{image.manifest}"] = Answer(b'{"schemaVersion": 2}')
    mirror.answers[f"/v2/hub/group/image/blobs/{image.config}"] = Answer(b"{}")
    source = registries.open(Reference.parse(f"{registry.address}/group/image@{image.manifest}"), AMD64)
    assert (digest(source.manifest), digest(source.config)) == (image.manifest, image.config)


@pytest.mark.root
def test_a_mirror_with_a_wrong_layer_is_not_asked_again(
    registries: Registries, registry: Standin, mirror: Standin, image: Image, tmp_path: Path
) -> None:
    """The image fails, for its bytes are gone through; the next try is the registry's, in the next pass too."""
    mirror.serve(image, "hub/group/image")
    wrong = image.blob(image.layers[0]).read_bytes()[:-1] + b"x"
    mirror.answers[f"/v2/hub/group/image/blobs/{image.layers[0]}"] = Answer(wrong)
    repository = make_repository(tmp_path / "repository")
    with pytest.raises(DataLoss):
        publish_image(opened(registries, registry), repository, durable=False, reserve=0)
    assert list(registries.left_alone()) == [mirror.address]
    assert publish_image(opened(registries, registry), repository, durable=False, reserve=0).changed


@pytest.mark.parametrize("ranges", [True, False])
def test_a_mirror_that_breaks_off(
    registries: Registries, registry: Standin, mirror: Standin, image: Image, ranges: bool
) -> None:
    """It is asked for the rest once, and then the registry is."""
    content, path = image.blob(image.layers[0]).read_bytes(), f"group/image/blobs/{image.layers[0]}"
    mirror.serve(image, "hub/group/image")

    def rest(start: int, end: int) -> Answer:
        return Answer(
            content[start:end], 206, {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"},
            len(content) - start,
        )  # fmt: skip

    def broken(asked: Asked) -> Answer:
        if "Range" not in asked.headers or not ranges:
            return Answer(content[: CHUNK + 100], length=len(content))
        return rest(int(asked.headers["Range"].removeprefix("bytes=").removesuffix("-")), 2 * CHUNK + 100)

    def whole(asked: Asked) -> Answer:
        return rest(int(asked.headers["Range"].removeprefix("bytes=").removesuffix("-")), len(content))

    mirror.answers[f"/v2/hub/{path}"], registry.answers[f"/v2/{path}"] = broken, whole
    assert layer(opened(registries, registry)) == image.layers[0]
    assert [asked.headers["Range"] for asked in registry.asked] == [f"bytes={(2 if ranges else 1) * CHUNK}-"]


def test_a_login_goes_to_whom_it_is_for(
    registries: Registries, registry: Standin, mirror: Standin, image: Image, home: Path
) -> None:
    """The registry's is not shown to a mirror that asks for one; the mirror's own is."""
    (home / ".docker").mkdir(parents=True)
    logins = {registry.address: {"auth": LOGIN}}
    (home / ".docker/config.json").write_text(json.dumps({"auths": logins}))
    asking = Answer(b"{}", 401, {"WWW-Authenticate": 'Basic realm="r"'})
    mirror.serve(image, "hub/group/image")
    pages = dict(mirror.answers)
    for path, page in pages.items():
        assert isinstance(page, Answer)
        mirror.answers[path] = lambda asked, page=page: page if asked.authorization else asking  # type: ignore[misc]
    assert digest(opened(registries, registry).manifest) == image.manifest
    assert {asked.authorization for asked in mirror.asked} == {""}
    (home / ".docker/config.json").write_text(
        json.dumps({"auths": logins | {mirror.address: {"auth": "b3duOm93bg=="}}})
    )
    registry.asked.clear()
    settings = Settings({registry.address: RegistrySettings(mirrors=(f"{mirror.address}/hub",))})
    with Registries(settings) as again:
        assert digest(opened(again, registry).manifest) == image.manifest
    assert registry.asked == []
    assert {asked.authorization for asked in mirror.asked} == {"", "Basic b3duOm93bg=="}


def test_lists_are_the_registry_s_own(registries: Registries, registry: Standin, mirror: Standin) -> None:
    """A mirror lists what it was asked for."""
    with pytest.raises(ContractError):
        registries.list_tags(registry.address, "group/image")
    assert (len(registry.asked), mirror.asked) == (1, [])
