"""What a store can hold of a repository, and why not the rest."""

import json
import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import Unavailable
from cvmfsrepo.oci import Platform
from cvmfsrepo.tree import Notation
from podmanstore import reading
from podmanstore.gather import Terms, gather
from podmanstore.held import compression_of
from podmanstore.reading import Remembered
from podmanstore.values import HeldLayer, Mount
from publisher.publishing.form import Form
from tests.images.ocilayout import Image, write_image
from tests.images.tarlayer import Dir, File, Opaque, Whiteout, layer_tar
from tests.mounting import mounted as mounted_at
from tests.podmanstore.repositories import AMD64, DUCC, Registry, Shelf, reference
from tests.standins import Standin, standin

pytestmark = pytest.mark.root

BASE = [Dir("d"), File("d/one", b"1"), File("d/two", b"2")]
DELETING = [Dir("d", mode=0o750), Whiteout("d/one")]
CLEARING = [Dir("d"), Opaque("d"), File("d/three")]
RAW = Form(Notation.OCI)
INGESTED = Form(Notation.OCI, as_ingested=True)
OF_DUCC = Form(Notation.OCI, as_ingested=True, record=False)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def keep_config(shelf: Shelf, image: Image) -> None:
    shelf.cache.keep(image.blob(image.config).read_bytes())


def test_an_image_of_ours(shelf: Shelf) -> None:
    """Its documents, and layers that need nothing around them."""
    image = shelf.publish("image:1", BASE, DELETING)
    held = shelf.image()
    assert (held.names, held.is_original) == (("registry.example/image:1",), True)
    assert (f"sha256:{held.id}", held.created) == (image.config, "2024-01-01T00:00:00Z")
    assert [f"sha256:{layer.diff_id}" for layer in held.layers] == list(image.diff_ids)
    assert [layer.target for layer in held.layers] == [str(shelf.layerfs(image, number)) for number in (0, 1)]
    assert [(layer.hide, layer.white, layer.compression) for layer in held.layers] == [(None, None, 2)] * 2
    assert held.layers[0].size == image.blob(image.layers[0]).stat().st_size
    assert held.layers[0].tar_size == len(layer_tar(BASE))
    assert Path(held.layers[0].tar_split) == shelf.layout.tar_split(Digest.parse(image.layers[0]))


@pytest.mark.parametrize("form", [RAW, INGESTED, OF_DUCC])
def test_raw_layers(shelf: Shelf, form: Form) -> None:
    """Markers and catalogs are hidden, deletions are devices; a walk finds the same as a record."""
    keep_config(shelf, shelf.publish("image:1", BASE, DELETING, form=form))
    base, deleting = shelf.image().layers
    catalogs = (b".cvmfscatalog",) if form.as_ingested else ()
    assert (base.hide.whiteouts if base.hide else ()) == catalogs
    assert base.white is None
    assert deleting.hide is not None
    assert deleting.white is not None
    assert deleting.hide.whiteouts == (*catalogs, b"d/.wh.one")
    assert deleting.white.whiteouts == (b"d/one",)
    modes = {entry.path: stat.S_IMODE(entry.mode) for entry in deleting.hide.directories}
    assert modes == {b"": 0o755, b"d": 0o750}


def test_layers_without_a_record_have_what_ducc_says(shelf: Shelf) -> None:
    """The size of the tar; nothing is known of tar-split or of files named like a catalog marker."""
    keep_config(shelf, shelf.publish("image:1", BASE, form=OF_DUCC))
    (layer,) = shelf.image().layers
    assert (layer.tar_size, layer.tar_split, layer.own_catalogs) == (len(layer_tar(BASE)), "", ())


@pytest.mark.parametrize(("mount", "served"), [(Mount.KERNEL, True), (Mount.FUSE, True), (Mount.BOTH, False)])
def test_raw_opaque_directories(shelf: Shelf, mount: Mount, served: bool) -> None:
    """No store shows them right under both mounts: the image is left out of such a store, and it says how to go on."""
    shelf.publish("image:1", BASE, CLEARING, form=RAW)
    gathered = shelf.gather(mount)
    assert len(gathered.images) == served
    if not served:
        (out,) = gathered.left_out
        assert out.name == "registry.example/image:1"
        assert "'/d'" in out.reason
        assert "--mount" in out.reason


def test_opaque_directories_in_overlay_notation(shelf: Shelf) -> None:
    """A device below the layer, whoever mounts it."""
    shelf.publish("image:1", BASE, CLEARING)
    white = shelf.image().layers[1].white
    assert white is not None
    assert white.whiteouts == (b"d",)


def test_a_name_beside_its_deletion(shelf: Shelf) -> None:
    """A raw layer that deletes and makes a name: only a store for one mount serves it."""
    shelf.publish("image:1", BASE, [Dir("d"), Whiteout("d/one"), File("d/one", b"new")], form=RAW)
    assert "'/d/one' beside" in shelf.gather().left_out[0].reason
    assert shelf.gather(Mount.KERNEL).left_out == ()


@pytest.mark.parametrize(
    ("media_type", "number"),
    [
        ("application/vnd.oci.image.layer.v1.tar", 0),
        ("application/vnd.oci.image.layer.v1.tar+gzip", 2),
        ("application/vnd.oci.image.layer.v1.tar+zstd", 4),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", 2),
        ("application/vnd.docker.image.rootfs.diff.tar", 0),
        ("", 2),
    ],
)
def test_compression(media_type: str, number: int) -> None:
    """containers/storage's numbers."""
    assert compression_of(media_type) == number


def test_targets_as_users_see_them(shelf: Shelf) -> None:
    """The repository may be read at one path and used at another."""
    image = shelf.publish("image:1", BASE)
    gathered = shelf.gather(place=shelf.place(links_to=Path("/cvmfs/unpacked.example")))
    (layer,) = gathered.images[0].layers
    digest = image.layers[0].removeprefix("sha256:")
    assert layer.target == f"/cvmfs/unpacked.example/.layers/{digest[:2]}/{digest}/layerfs"
    assert layer.tar_split.startswith("/cvmfs/unpacked.example/.layers/")


def test_a_missing_layer(shelf: Shelf) -> None:
    """The image is named, and the layer; other images are served."""
    gone = shelf.publish("gone:1", BASE, DELETING)
    shelf.publish("image:1", BASE)
    shutil.rmtree(shelf.layout.layer(Digest.parse(gone.layers[1])))
    gathered = shelf.gather()
    assert [image.names for image in gathered.images] == [("registry.example/image:1",)]
    (out,) = gathered.left_out
    assert out.name == "registry.example/gone:1"
    assert gone.layers[1] in out.reason


def test_without_a_config(shelf: Shelf) -> None:
    """The reason says which option fetches it."""
    shelf.publish("image:1", BASE, form=DUCC)
    (out,) = shelf.gather().left_out
    assert "--fetch-configs" in out.reason


def test_configs_are_fetched_when_asked(shelf: Shelf) -> None:
    """One request for an image, and none by the next build."""
    registry = Registry(shelf.publish("image:1", BASE, form=DUCC))
    assert shelf.gather(fetch=registry).left_out == ()
    assert registry.asked == [reference("image:1")]
    assert shelf.gather(fetch=registry).images[0].is_original
    assert len(registry.asked) == 1
    assert shelf.image().is_original


def test_a_registry_that_is_away_is_asked_once(shelf: Shelf) -> None:
    """Each image left out says why; the build goes on."""
    for number in range(20):
        shelf.publish(f"image:{number}", [File(str(number))], form=DUCC)
    asked = list[object]()

    def away(*arguments: object) -> None:
        asked.append(arguments)
        time.sleep(0.05)
        raise Unavailable("image", "x", "cannot be read")

    gathered = shelf.gather(fetch=away)  # type: ignore[arg-type]
    assert len(gathered.left_out) == 20
    assert {"could not be fetched" in out.reason for out in gathered.left_out} == {True}
    assert len(asked) <= 4, "as many as are fetched at one time"


def test_another_platform(shelf: Shelf) -> None:
    """The store is for one; which, is a matter of the node."""
    shelf.publish("image:1", BASE, architecture="arm64")
    (out,) = shelf.gather().left_out
    assert out.reason == "is for linux/arm64, and the store for linux/amd64 (--platform)"
    assert shelf.gather(platform=Platform("linux", "arm64", "v8")).left_out == ()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("MediaType", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "is a foreign layer"),
        ("MediaType", "application/vnd.oci.image.layer.nondistributable.v1.tar", "is a foreign layer"),
        ("MediaType", "application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "is encrypted"),
        ("Digest", "sha256:../../etc", "does not parse"),
    ],
)
def test_layers_that_cannot_be_served(shelf: Shelf, key: str, value: str, words: str) -> None:
    """Each with its reason."""
    shelf.publish("image:1", BASE)
    path = shelf.layout.manifest_json(reference("image:1"))
    document = json.loads(path.read_bytes())
    document["Layers"][0][key] = value
    path.write_text(json.dumps(document))
    (out,) = shelf.gather().left_out
    assert out.name == "registry.example/image:1"
    assert words in out.reason


def test_diff_ids_that_do_not_agree(shelf: Shelf, tmp_path: Path) -> None:
    """A config that tells of other tars than were unpacked; or of fewer."""
    image = shelf.publish("image:1", BASE)
    other = write_image(tmp_path / "other", [layer_tar(DELETING)], "x")
    fewer = write_image(tmp_path / "fewer", [layer_tar(BASE), layer_tar(DELETING)], "x")
    for wrong, words in ((other, "unpacks to sha256:"), (fewer, "2 diff ids for 1 layers")):
        path = shelf.layout.manifest_json(reference("image:1"))
        document = json.loads(path.read_bytes())
        document["Config"]["Digest"] = wrong.config
        path.write_text(json.dumps(document))
        keep_config(shelf, wrong)
        assert words in shelf.gather().left_out[0].reason
    assert image.config not in (other.config, fewer.config)


@pytest.mark.parametrize("created", ["yesterday", "2024-13-01T00:00:00Z", "2024-01-01 00:00:00Z", 5, None])
def test_a_time_that_is_none(shelf: Shelf, tmp_path: Path, created: object) -> None:
    """podman would read nothing of the store."""
    image = shelf.publish("image:1", BASE)
    config = json.loads(image.blob(image.config).read_bytes()) | {"created": created}
    path = shelf.layout.manifest_json(reference("image:1"))
    document = json.loads(path.read_bytes())
    document["Config"]["Digest"] = str(Digest.of(content := json.dumps(config).encode()))
    path.write_text(json.dumps(document))
    shelf.cache.keep(content)
    gathered = shelf.gather()
    if created == 5:
        assert "does not parse" in gathered.left_out[0].reason
    else:
        assert gathered.images[0].created == "1970-01-01T00:00:00Z"


def test_only_some_images(shelf: Shelf) -> None:
    """Named as they are published or as podman calls them; one that is not there is left out with that reason."""
    shelf.publish("registry.hub.docker.com/busybox:1", BASE)
    shelf.publish("other:1", DELETING)
    hub = reference("x").parse("docker.io/library/busybox:1")
    gathered = shelf.gather(only=frozenset({hub, reference("absent:1")}))
    assert [image.names for image in gathered.images] == [("docker.io/library/busybox:1",)]
    (out,) = gathered.left_out
    assert out.name == "registry.example/absent:1"
    assert "is not published" in out.reason


def test_known_layers_are_not_looked_at(shelf: Shelf) -> None:
    """Not even if they are gone; but layers of another root are."""
    image = shelf.publish("image:1", BASE)
    known = shelf.gather().layers
    assert list(known) == [image.layers[0].removeprefix("sha256:")]
    elsewhere = {name: _moved(layer) for name, layer in known.items()}
    shutil.rmtree(shelf.layout.layer(Digest.parse(image.layers[0])))
    assert len(shelf.gather(known=known).images) == 1
    assert shelf.gather(known=elsewhere).images == ()


def _moved(layer: HeldLayer) -> HeldLayer:
    return HeldLayer(layer.layer, layer.diff_id, f"/elsewhere{layer.target}", layer.size)


def test_images_are_remembered_where_their_times_tell(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a directory that can be written to. What is mounted read-only may be an image of a disk, whose maker gave its
    files their times, and the next one's the same."""
    shelf.publish("one:1", BASE)
    monkeypatch.setattr(reading, "_SETTLED_NS", 0)
    assert len(shelf.gather().read) == 1
    with mounted_at("none", str(shelf.root), tmp_path / "image", ["bind", "ro"]) as image:
        assert shelf.gather(place=shelf.place(image)).read == {}


def test_several_repositories(tmp_path: Path) -> None:
    """A layer that both hold is the first one's."""
    one, two = Shelf(tmp_path / "one"), Shelf(tmp_path / "two")
    one.publish("one:1", BASE)
    two.publish("two:1", BASE, DELETING)
    gathered = gather([one.place(), two.place()], Remembered(), Terms(Mount.BOTH, AMD64), one.cache)
    targets = {image.names[0]: [Path(layer.target).parents[3].parent.name for layer in image.layers]
               for image in gathered.images}  # fmt: skip
    assert targets == {"registry.example/one:1": ["one"], "registry.example/two:1": ["one", "two"]}
    assert gathered.revisions == (None, None)


@pytest.fixture
def mounted(shelf: Shelf, tmp_path: Path) -> Iterator[Standin]:
    """A repository with two images, served."""
    shelf.publish("image:1", BASE)
    shelf.publish("image:2", BASE, DELETING)
    with standin(shelf.root, tmp_path / "mnt", revision=7) as served:
        yield served


@pytest.mark.fuse
def test_a_mounted_repository(shelf: Shelf, mounted: Standin) -> None:
    """Its revision is told."""
    gathered = shelf.gather(place=shelf.place(mounted.mountpoint))
    assert gathered.revisions == (7,)
    assert len(gathered.images) == 2


@pytest.mark.fuse
@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("stall", "/"), ("stall", "/.metadata"), ("stall", "/.layers/*/*/layerfs"), ("stall", "/.layers/*/*/.metadata"),
        ("eio", "/"), ("eio", "/.metadata/registry.example"), ("eio", "/.layers/*/*/layerfs"),
        ("catalog", "/.layers/*/*/layerfs"), ("enotconn", "/"), ("estale", "/.layers/*/*/layerfs"),
    ],
)  # fmt: skip
def test_a_repository_that_does_not_answer(shelf: Shelf, mounted: Standin, kind: str, path: str) -> None:
    """The build ends and names it, after its deadline at the latest; nothing is half gathered."""
    mounted.fault(kind, path)
    place = shelf.place(mounted.mountpoint, seconds=1.0)
    began = time.monotonic()
    with pytest.raises(Unavailable, match="does not answer") as raised:
        shelf.gather(place=place)
    assert str(mounted.mountpoint) in str(raised.value)
    assert time.monotonic() - began < 8
    mounted.clear()
    assert len(shelf.gather(place=place).images) == 2


@pytest.mark.fuse
def test_one_layer_that_fails(shelf: Shelf, mounted: Standin) -> None:
    """Its image is left out and the others are served; the revision is not noted, so the next build looks again."""
    spoilt = shelf.publish("spoilt:1", [File("x")])
    path = shelf.layerfs(spoilt).relative_to(shelf.root)
    mounted.fault("catalog", f"/{path}")
    gathered = shelf.gather(place=shelf.place(mounted.mountpoint))
    assert len(gathered.images) == 2
    assert [out.name for out in gathered.left_out] == ["registry.example/spoilt:1"]
    assert gathered.revisions == (None,)


def test_an_empty_mount_point_is_no_repository(shelf: Shelf, tmp_path: Path) -> None:
    """It would look as if every image were gone."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(Unavailable, match="does not answer"):
        shelf.gather(place=shelf.place(tmp_path / "empty"))


def test_a_repository_that_goes_away_in_the_middle(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images whose files are not there any more are not images that were removed."""
    shelf.publish("image:1", BASE)
    place = shelf.place()
    real, root = os.listdir, str(shelf.layout.metadata)

    def listing(path: "os.PathLike[str]") -> list[str]:
        names = real(path)
        if str(path) == root:
            shelf.root.rename(shelf.directory / "away")
        return names

    monkeypatch.setattr(os, "listdir", listing)
    with pytest.raises(Unavailable, match="does not answer"):
        shelf.gather(place=place)
