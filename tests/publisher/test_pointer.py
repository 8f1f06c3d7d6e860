"""From a published name back to the original documents: manifest and image indexes, byte for byte."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss, NotFound
from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Reference
from cvmfsrepo.repository import Pointer, Repository
from publisher.opening import open_source
from publisher.publishing.form import Form
from publisher.publishing.publish import publish_image
from tests.images.ocilayout import REF_NAME, Image
from tests.images.tarlayer import File, layer_tar
from tests.publisher.crafting import digest
from tests.publisher.publishing import AMD64, REF, make_image, make_repository, publish, state
from tests.publisher.stub_registry import stub_registry

TAR = layer_tar([File("x", b"content")])
NAME = Reference.parse(REF)
HEX = "0" * 64


@pytest.fixture
def reader(tmp_path: Path) -> Repository:
    return Repository("test", Layout(make_repository(tmp_path / "repository")))


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return make_image(tmp_path / "image", TAR)


def add_index(image: Image) -> bytes:
    """An image index, as registries have them for several platforms, in the layout's blobs and under its REF."""
    entry = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": image.manifest,
        "size": image.blob(image.manifest).stat().st_size, "platform": {"os": "linux", "architecture": "amd64"},
    }  # fmt: skip
    content = json.dumps({"schemaVersion": 2, "manifests": [entry], "annotations": {"by": "hand"}}, indent=3).encode()
    image.blob(digest(content)).write_bytes(content)
    named = {"digest": digest(content), "size": len(content), "annotations": {REF_NAME: image.ref}}
    (image.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    return content


@pytest.mark.root
def test_an_image_without_an_index(image: Image, reader: Repository) -> None:
    """The layout's own list of images is none: it is in no registry. The file is one line of JSON."""
    publish(image, reader.layout.root)
    assert reader.find_pointer(NAME) == Pointer(Digest.parse(image.manifest))
    content = (reader.layout.root / ".metadata/registry.example/group/image:1/image.v1").read_text()
    assert content == f'{{"manifest":"{image.manifest}","indexes":[]}}'


@pytest.mark.root
def test_an_index_in_a_layout(image: Image, reader: Repository) -> None:
    """Its bytes are kept beside the manifest's."""
    index = add_index(image)
    publish(image, reader.layout.root)
    pointer = reader.find_pointer(NAME)
    assert pointer == Pointer(Digest.parse(image.manifest), (Digest.of(index),))
    assert reader.get_blob(Digest.of(index)) == index
    assert reader.get_blob(pointer.manifest) == image.blob(image.manifest).read_bytes()


@pytest.mark.root
@pytest.mark.parametrize("by", ["tag", "digest"])
def test_an_index_in_a_registry(image: Image, reader: Repository, by: str) -> None:
    """Asked for by tag or by the index's own digest, which is then the name that it is published under."""
    index = add_index(image)
    with stub_registry(replace(image, manifest=digest(index))) as stub:
        source = stub.source if by == "tag" else f"{stub.source.rpartition(':')[0]}@{digest(index)}"
        root = reader.layout.root
        report = publish_image(open_source(source, AMD64), root, durable=False, reserve=0)
    assert str(report.reference) == source.removeprefix("docker://")
    assert reader.find_pointer(report.reference) == Pointer(Digest.parse(image.manifest), (Digest.of(index),))
    assert reader.get_blob(Digest.of(index)) == index


@pytest.mark.root
def test_the_pointer_is_shown_before_the_manifest(
    image: Image, reader: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And after what it points to: a run that is killed leaves a pointer that leads nowhere wrong."""
    shown, rename = list[str](), Path.rename

    def noted(path: Path, target: Path) -> Path:
        shown.append(target.name)
        return rename(path, target)

    index = add_index(image)
    monkeypatch.setattr(Path, "rename", noted)
    publish(image, reader.layout.root)
    config, manifest, top = (d.removeprefix("sha256:") for d in (image.config, image.manifest, digest(index)))
    assert shown[-6:] == [config, manifest, top, "image.v1", "manifest.json", "index.v1"]


@pytest.mark.root
def test_an_image_of_an_older_publication(image: Image, reader: Repository) -> None:
    """The second run adds the pointer and the index, and touches nothing else."""
    publish(image, reader.layout.root, Form())
    before = state(reader.layout.root)
    reader.layout.image_pointer(NAME).unlink()
    index = add_index(image)
    report = publish(image, reader.layout.root)
    assert (report.changed, report.published) == (True, ())
    added = {str(reader.layout.image_pointer(NAME)), str(reader.layout.blob(Digest.of(index)))}
    after = state(reader.layout.root)
    files = {path for path in after if os.path.isfile(path) and after[path] != before.get(path)}
    assert files == added
    assert not publish(image, reader.layout.root).changed


@pytest.mark.root
def test_a_tag_that_moved(tmp_path: Path, image: Image, reader: Repository) -> None:
    """The pointer moves with it; an index of the old image is not the new one's."""
    add_index(image)
    publish(image, reader.layout.root)
    new = make_image(tmp_path / "new", layer_tar([File("y")]))
    publish(new, reader.layout.root)
    assert reader.find_pointer(NAME) == Pointer(Digest.parse(new.manifest))


@pytest.mark.root
def test_what_ducc_would_not_write(image: Image, reader: Repository) -> None:
    """Without a record there is no pointer; the image is there all the same."""
    publish(image, reader.layout.root, Form(record=False))
    assert reader.find_pointer(NAME) is None
    assert reader.get_image(NAME).reference == NAME
    with pytest.raises(NotFound):
        reader.get_blob(Digest.parse(image.manifest))


def write_pointer(reader: Repository, content: bytes) -> Path:
    path = reader.layout.image_pointer(NAME)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def test_a_pointer_is_what_was_written(reader: Repository) -> None:
    """Also with fields of a later version."""
    pointer = Pointer(Digest("1" * 64), (Digest("2" * 64), Digest("3" * 64)))
    document = json.loads(pointer.encode()) | {"signatures": [1, {"a": None}]}
    write_pointer(reader, json.dumps(document).encode())
    assert reader.find_pointer(NAME) == pointer


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"null", b"[]", b"\xff", b'{"manifest":"sha256:' + HEX.encode() + b'"}', b'{"indexes":[]}',
        b'{"manifest":"sha256:../../..","indexes":[]}', b'{"manifest":5,"indexes":[]}', b"[" * 50_000,
        b'{"manifest":"sha256:' + HEX.encode() + b'","indexes":["x"]}', b'{"x":' + b"[" * 50_000 + b"}",
        b'{"manifest":"sha256:' + HEX.encode() + b'","indexes":[]}' + b" " * (64 << 10),
    ],
)  # fmt: skip
def test_a_malformed_pointer(reader: Repository, content: bytes) -> None:
    """Damage, and it says where; nothing of it is used."""
    path = write_pointer(reader, content)
    with pytest.raises(DataLoss, match=r"image\.v1") as caught:
        reader.find_pointer(NAME)
    assert str(path) in str(caught.value)


def test_something_else_in_its_place(tmp_path: Path, reader: Repository) -> None:
    """A link is not followed, nor a pipe waited for; a link on the way is refused."""
    (tmp_path / "secret").write_bytes(Pointer(Digest(HEX)).encode())
    path = write_pointer(reader, b"")
    path.unlink()
    path.symlink_to(tmp_path / "secret")
    with pytest.raises(DataLoss, match="not a regular file"):
        reader.find_pointer(NAME)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataLoss, match="not a regular file"):
        reader.find_pointer(NAME)
    path.unlink()
    path.parent.rename(tmp_path / "elsewhere")
    path.parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="is a link"):
        reader.find_pointer(NAME)
