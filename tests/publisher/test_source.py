"""Where images come from: layouts of several tools, a registry of our own making, and a real one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError, DataLoss, InvalidArgument, NotFound, PermissionDenied, Unavailable
from cvmfsrepo.oci import Platform, parse_manifest
from publisher.opening import open_source
from publisher.publishing.publish import publish_image
from publisher.source import parse_platform
from tests.engines.registry import Registry
from tests.images.ocilayout import Image, write_image
from tests.images.tarlayer import File, layer_tar
from tests.publisher.crafting import digest
from tests.publisher.publishing import AMD64, REF, make_image, make_repository, state
from tests.publisher.stub_registry import LOGIN, Stub, stub_registry

TAR = layer_tar([File("x", b"content")])


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return make_image(tmp_path / "image", TAR)


@pytest.fixture
def stub(image: Image) -> Iterator[Stub]:
    with stub_registry(image) as running:
        yield running


def rewrite_index(image: Image, **changes: Any) -> dict[str, Any]:
    """Changes the first entry of a layout's index."""
    path = image.path / "index.json"
    index: dict[str, Any] = json.loads(path.read_bytes())
    index["manifests"][0] |= changes
    path.write_text(json.dumps(index))
    return index


def test_a_layout_with_a_ref(image: Image) -> None:
    """The image of the REF, byte for byte, under the name that it is."""
    source = open_source(image.source, AMD64)
    assert (digest(source.manifest), digest(source.config)) == (image.manifest, image.config)
    assert str(source.reference) == REF
    with source.open_blob(parse_manifest(source.manifest).layers[0]) as blob:
        assert digest(blob.readall() or b"") == image.layers[0]


def test_a_single_image_needs_no_ref(tmp_path: Path, image: Image) -> None:
    """Of several images one must be named."""
    assert digest(open_source(f"oci:{image.path}", AMD64).manifest) == image.manifest
    write_image(image.path, [TAR], "latest")
    with pytest.raises(NotFound, match="does not say which image"):
        open_source(f"oci:{image.path}", AMD64)


@pytest.mark.parametrize(
    ("directory", "ref", "name"),
    [
        ("debian", "latest", "localhost/debian:latest"),
        ("Debian", "12", "localhost/debian:12"),
        ("x", "app:1", "localhost/app:1"),
        ("x", "group/app:1", "localhost/group/app:1"),
        ("x", "registry.example:5000/app:1", "registry.example:5000/app:1"),
        ("not a name", "1", None),
    ],
)
def test_a_layout_s_image_has_a_name(tmp_path: Path, directory: str, ref: str, name: str | None) -> None:
    """A full REF as it is; otherwise one of localhost, with the layout's directory for a bare tag."""
    write_image(tmp_path / directory, [TAR], ref)
    for text in (f"oci:{tmp_path / directory}:{ref}", f"oci:{tmp_path / directory}"):
        reference = open_source(text, AMD64).reference
        assert (str(reference) if reference else None) == name


def test_colons_in_a_layout_s_path(tmp_path: Path) -> None:
    """The longest directory that exists is the path."""
    image = make_image(tmp_path / "a:b", TAR)
    assert digest(open_source(image.source, AMD64).manifest) == image.manifest
    assert digest(open_source(f"oci:{image.path}", AMD64).manifest) == image.manifest


def test_a_platform_is_chosen(tmp_path: Path) -> None:
    """From the layout's own index, and from an index below it, as buildx writes them."""
    arm = write_image(tmp_path / "image", [TAR], "arm", architecture="arm64")
    write_image(tmp_path / "image", [TAR], "amd")
    inner = (tmp_path / "image" / "index.json").read_bytes()
    (tmp_path / "image" / "blobs" / "sha256" / digest(inner).removeprefix("sha256:")).write_bytes(inner)
    assert digest(open_source(f"oci:{arm.path}", Platform("linux", "arm64")).manifest) == arm.manifest
    entry = {"digest": digest(inner), "size": len(inner), "annotations": {"org.opencontainers.image.ref.name": "all"}}
    (tmp_path / "image" / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    assert digest(open_source(f"oci:{arm.path}:all", Platform("linux", "arm64")).manifest) == arm.manifest
    with pytest.raises(InvalidArgument, match="no image for this platform; it offers: linux/"):
        open_source(f"oci:{arm.path}:all", Platform("linux", "riscv64"))


@pytest.mark.parametrize("text", ["", "oci", "oci:", "docker:x", "http://x/y", "/tmp", "oci:/nowhere/at/all:1"])
def test_texts_that_are_no_source(text: str) -> None:
    """The error shows the forms."""
    with pytest.raises(ContractError, match=r"give oci:PATH"):
        open_source(text, AMD64)


@pytest.mark.parametrize("text", ["linux", "linux/", "/amd64", "a/b/c/d", ""])
def test_texts_that_are_no_platform(text: str) -> None:
    """os/architecture, and perhaps a variant."""
    with pytest.raises(InvalidArgument, match="linux/amd64"):
        parse_platform(text)


def test_a_layout_that_is_not_what_it_promises(image: Image) -> None:
    """An unknown REF lists the known; missing, changed and oversized documents are told apart."""
    with pytest.raises(NotFound, match=f"it has: {REF}"):
        open_source(f"oci:{image.path}:other", AMD64)
    image.blob(image.config).write_bytes(b"{}")
    with pytest.raises(DataLoss, match="image config"):
        open_source(image.source, AMD64)
    image.blob(image.config).unlink()
    with pytest.raises(NotFound, match="the layout is incomplete"):
        open_source(image.source, AMD64)
    rewrite_index(image, size=1 << 40)
    with pytest.raises(InvalidArgument, match="too many"):
        open_source(image.source, AMD64)
    (image.path / "index.json").write_text("{")
    with pytest.raises(InvalidArgument, match="does not parse"):
        open_source(image.source, AMD64)


@pytest.mark.root
def test_an_image_from_a_registry(tmp_path: Path, stub: Stub, image: Image) -> None:
    """Over plain HTTP on the loopback; manifest, config and layer are asked for once each."""
    repository = make_repository(tmp_path / "repository")
    report = publish_image(open_source(stub.source, AMD64), repository, durable=False, reserve=0)
    assert [str(layer) for layer in report.published] == list(image.layers)
    assert str(report.reference) == stub.source.removeprefix("docker://")
    base = "/v2/group/image/"
    wanted = [f"{base}manifests/1", f"{base}blobs/{image.config}", f"{base}blobs/{image.layers[0]}"]
    assert stub.behaviour.requests == wanted


def test_an_image_by_digest_is_verified(stub: Stub, image: Image) -> None:
    """A registry that answers with another manifest is found out."""
    source = f"{stub.source.rpartition(':')[0]}@{image.manifest}"
    assert digest(open_source(source, AMD64).manifest) == image.manifest
    image.blob(image.manifest).write_bytes(image.blob(image.manifest).read_bytes() + b" ")
    with pytest.raises(DataLoss, match="digest"):
        open_source(source, AMD64)


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (404, NotFound, "has no manifest 1"),
        (403, PermissionDenied, "docker login"),
        (500, Unavailable, "answered 500"),
        (503, Unavailable, "answered 503"),
        (429, Unavailable, "asks to wait until"),
    ],
)
def test_what_a_registry_refuses(stub: Stub, status: int, error: type[ContractError], words: str) -> None:
    """Each answer leads to an error that says what to do: at once, or after a few tries where it may pass."""
    stub.behaviour.statuses["manifests/1"] = status
    with pytest.raises(error, match=words):
        open_source(stub.source, AMD64)
    assert len(stub.behaviour.requests) == (4 if status in (429, 500, 503) else 1)


def test_a_registry_that_does_not_listen(image: Image) -> None:
    """The reason in one line, at once."""
    with stub_registry(image) as stopped:
        pass
    with pytest.raises(Unavailable, match="refused") as raised:
        open_source(stopped.source, AMD64)
    assert "\n" not in str(raised.value)


def test_a_registry_with_tokens(stub: Stub, image: Image) -> None:
    """An anonymous token is fetched; one that has run out in between is fetched again."""
    stub.behaviour.token = True
    source = open_source(stub.source, AMD64)
    stub.behaviour.tokens += 1  # the registry forgets the token that it gave
    with source.open_blob(parse_manifest(source.manifest).layers[0]) as blob:
        assert digest(blob.read(1 << 20) or b"") == image.layers[0]


def test_a_registry_that_wants_a_login(
    tmp_path: Path, stub: Stub, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has logged in: the error says how. Then Docker's file of logins is read."""
    stub.behaviour.basic = True
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(PermissionDenied, match="docker login"):
        open_source(stub.source, AMD64)
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_text(json.dumps({"auths": {stub.address: {"auth": LOGIN}}}))
    assert digest(open_source(stub.source, AMD64).manifest) == image.manifest


@pytest.mark.root
def test_a_connection_that_breaks_in_a_blob(tmp_path: Path, stub: Stub) -> None:
    """The repository stays as it was."""
    repository = make_repository(tmp_path / "repository")
    source = open_source(stub.source, AMD64)
    stub.behaviour.cut_after = 20
    with pytest.raises((Unavailable, DataLoss)):
        publish_image(source, repository, durable=False, reserve=0)
    assert state(repository) == {"staged": ()}


@pytest.mark.engine
@pytest.mark.root
def test_a_real_registry(tmp_path: Path, image: Image) -> None:
    """docker-registry with an image that skopeo pushed: published, and the same digests."""
    with Registry(tmp_path / "registry") as registry:
        reference = registry.push(image.path, REF, "group/image:1")
        source = open_source(f"docker://{reference}", AMD64)
        repository = make_repository(tmp_path / "repository")
        report = publish_image(source, repository, durable=False, reserve=0)
        assert (str(report.manifest), str(report.published[0])) == (image.manifest, image.layers[0])
        with pytest.raises(NotFound, match="has no manifest nothing"):
            open_source(f"docker://{registry.address}/group/image:nothing", AMD64)
        registry.forget_blob(image.config)
        with pytest.raises(NotFound, match="has no image config"):
            open_source(f"docker://{reference}", AMD64)
    assert Digest.of(source.config) == Digest.parse(image.config)
