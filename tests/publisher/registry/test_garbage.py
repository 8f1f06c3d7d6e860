"""Answers that are none: the error names registry, image and what to do, and nothing is published."""

import json
import socket
import threading
from pathlib import Path

import pytest

from cvmfsrepo.errors import ContractError, DataLoss, Unavailable
from cvmfsrepo.oci import Reference
from publisher.opening import open_source
from publisher.publishing.publish import publish_image
from publisher.registry.registries import Registries
from tests.images.ocilayout import Image
from tests.publisher.publishing import AMD64, make_repository, state
from tests.publisher.registry.standin import MANIFEST, Answer, Standin

HTML = {"Content-Type": "text/html; charset=utf-8"}
OLD = {"schemaVersion": 1, "fsLayers": [], "history": []}
BOTH = {"schemaVersion": 2, "manifests": [], "Layers": [], "config": {}}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(b"<html>log in</html>", headers=HTML), "a page .text/html.* in place of the manifest 1"),
        (Answer(b"<html>log in</html>"), "a manifest 1 that is none .19 bytes, no type"),
        (Answer(b"", headers={"Content-Type": MANIFEST}), "a manifest 1 that is none .0 bytes"),
        (Answer(b'{"schemaVersion": 2, "config": {'), "a manifest 1 that is none"),
        (Answer(b'{"errors": []}'), "a manifest 1 that is none"),
        (Answer(b"[]"), "a manifest 1 that is none"),
        (Answer(b"\xff\xfe"), "a manifest 1 that is none"),
        (Answer(b"[" * 100_000), "a manifest 1 that is none"),
        (Answer(b" " * ((4 << 20) + 1)), "a manifest 1 of more than 4194304 bytes"),
        (Answer(json.dumps(OLD).encode()), "the old schema 1"),
        (Answer(json.dumps(BOTH).encode()), "an image and an index at once"),
        (Answer(b"{}", headers={"Docker-Content-Digest": "sha256:" + "0" * 64}), "another digest than the one it"),
    ],
    ids=range(12),
)  # fmt: skip
def test_a_manifest_that_is_none(registry: Standin, answer: Answer, words: str) -> None:
    """By its tag, where no digest says what it should be."""
    registry.answers["/v2/group/image/manifests/1"] = answer
    with pytest.raises(DataLoss, match=f"{registry.address} answered with.*{words}") as raised:
        open_source(f"docker://{registry.address}/group/image:1", AMD64)
    assert raised.value.value == f"{registry.address}/group/image:1"
    assert raised.value.remedy


def test_a_digest_that_lies_in_a_head_request(registry: Standin) -> None:
    """The image that it promises is asked for, and is not what it was to be."""
    promised = "sha256:" + "1" * 64
    manifest = registry.answers["/v2/group/image/manifests/1"]
    registry.answers["HEAD /v2/group/image/manifests/1"] = Answer(headers={"Docker-Content-Digest": promised})
    registry.answers[f"/v2/group/image/manifests/{promised}"] = manifest
    with Registries() as registries:
        found = registries.find_digest(Reference.parse(f"{registry.address}/group/image:1"))
        with pytest.raises(DataLoss, match="another digest"):
            registries.open(Reference(registry.address, "group/image", None, found), AMD64)


@pytest.mark.parametrize("kind", ["config", "layer"])
@pytest.mark.parametrize(
    "answer", [Answer(b"<html>", headers=HTML), Answer(b"x" * 500), Answer(b""), Answer(status=204)]
)
@pytest.mark.root
def test_a_blob_that_is_none(registry: Standin, image: Image, tmp_path: Path, kind: str, answer: Answer) -> None:
    """Nothing of the image is in the repository."""
    wanted = image.config if kind == "config" else image.layers[0]
    registry.answers[f"/v2/group/image/blobs/{wanted}"] = answer
    repository = make_repository(tmp_path / "repository")
    with pytest.raises(ContractError):  # noqa: PT012 - a config is read when the image is opened, a layer later
        source = open_source(f"docker://{registry.address}/group/image:1", AMD64)
        publish_image(source, repository, durable=False, reserve=0)
    assert set(state(repository)) <= {"staged"}


def test_an_answer_that_is_no_http() -> None:
    """Something else listens there: one line says what cannot be read from where."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        greeting = threading.Thread(target=greet)
        greeting.start()
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(Unavailable, match=f"cannot be read from {address}") as raised:
            open_source(f"docker://{address}/group/image:1", AMD64)
        greeting.join()
    assert "\n" not in str(raised.value)
