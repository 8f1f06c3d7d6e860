"""A publication as a whole: what it writes, that it is all or nothing, and that a second one changes nothing."""

import json
import os
from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError, DataLoss, FailedPrecondition, InvalidArgument, ResourceExhausted
from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Reference
from cvmfsrepo.repository import Repository
from cvmfsrepo.tree import Notation, decode
from publisher.publishing.form import Form
from publisher.publishing.publish import publish_image
from publisher.source import open_source
from publisher.unpacking.unpack import unpack
from tests.images.ocilayout import write_image
from tests.images.tarlayer import Dir, File, Whiteout, layer_tar
from tests.mounting import mounted
from tests.publisher.crafting import Blob, craft_image, digest
from tests.publisher.publishing import AMD64, REF, make_image, make_repository, publish, state

pytestmark = pytest.mark.root

BASE = layer_tar([Dir("d"), File("d/x", b"x" * 5000)])
TOP = layer_tar([Whiteout("d/x"), File("y", b"y")])


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "repository")


def test_what_a_publication_writes(tmp_path: Path, repository: Path) -> None:
    """DUCC's files in DUCC's form, and beside them the record, the original documents and the diff id links."""
    image = make_image(tmp_path / "image", BASE, TOP)
    report = publish(image, repository)
    layout, layer = Layout(repository), Digest.parse(image.layers[0])
    (entry,) = json.loads(layout.layers_json(layer).read_bytes())
    assert {key: entry[key] for key in entry if key != "created"} == {
        "id": image.diff_ids[0].removeprefix("sha256:"), "compressed-diff-digest": image.layers[0],
        "diff-digest": image.diff_ids[0], "diff-size": len(BASE),
    }  # fmt: skip
    assert json.loads(layout.origin_json(layer).read_bytes()) == {"origin": [image.config]}
    assert decode(layout.tree_record(layer).read_bytes()).head.diff_id == entry["id"]
    for document in (image.manifest, image.config):
        assert layout.blob(Digest.parse(document)).read_bytes() == image.blob(document).read_bytes()
    link = layout.diff_id_link(Digest.parse(image.diff_ids[0]))
    assert not os.path.isabs(os.readlink(link))
    assert os.path.samefile(link, layout.layer(layer))
    assert (str(report.reference), str(report.manifest)) == (REF, image.manifest)
    assert [str(d) for d in report.published] == list(image.layers)


def test_the_manifest_is_as_ducc_writes_it(tmp_path: Path, repository: Path) -> None:
    """Go's names of the fields, in their order, in one line without an end."""
    image = make_image(tmp_path / "image", TOP)
    publish(image, repository)
    manifest = (repository / ".metadata/registry.example/group/image:1/manifest.json").read_text()
    sizes = [image.blob(d).stat().st_size for d in (image.config, image.layers[0])]
    oci = "application/vnd.oci.image"
    assert manifest == (
        f'{{"SchemaVersion":2,"MediaType":"{oci}.manifest.v1+json",'
        f'"Config":{{"MediaType":"{oci}.config.v1+json","Size":{sizes[0]},"Digest":"{image.config}"}},'
        f'"Layers":[{{"MediaType":"{oci}.layer.v1.tar+gzip","Size":{sizes[1]},"Digest":"{image.layers[0]}"}}]}}'
    )


def test_the_reader_reads_it(tmp_path: Path, repository: Path) -> None:
    """`Repository` finds image, layers, records, blobs and diff ids."""
    image = make_image(tmp_path / "image", BASE, TOP)
    publish(image, repository)
    reader = Repository("test", Layout(repository))
    assert [str(reference) for reference in reader.walk_images()] == [REF]
    found = reader.get_image(Reference.parse(REF))
    assert [str(layer.digest) for layer in found.manifest.layers] == list(image.layers)
    assert str(reader.find_by_diff_id(Digest.parse(image.diff_ids[1]))) == image.layers[1]
    head = reader.find_head(Digest.parse(image.layers[1]))
    assert head is not None
    assert head.whiteouts == (b"d/x",)
    assert digest(reader.get_blob(Digest.parse(image.manifest))) == image.manifest


def test_all_is_readable_whatever_the_umask(tmp_path: Path, repository: Path) -> None:
    """A repository that only root can read serves nobody."""
    old = os.umask(0o077)
    try:
        publish(make_image(tmp_path / "image", BASE), repository)
    finally:
        os.umask(old)
    paths = [p for p in repository.rglob("*") if ".cvmfs-publisher" not in p.parts and "layerfs" not in p.parts]
    assert {oct(p.stat().st_mode & 0o777) for p in paths} == {"0o755", "0o644"}


@pytest.mark.parametrize("form", [Form(), Form(Notation.OCI), Form(Notation.OCI, as_ingested=True, record=False)])
def test_a_second_run_changes_nothing(tmp_path: Path, repository: Path, form: Form) -> None:
    """Not even a time; and no layer is read."""
    image = make_image(tmp_path / "image", BASE, TOP)
    first = publish(image, repository, form)
    before = state(repository)
    for layer in image.layers:
        image.blob(layer).unlink()
    again = publish(image, repository, form)
    assert state(repository) == before
    assert (first.changed, again.changed, again.published) == (True, False, ())
    assert [str(layer) for layer in again.present] == list(image.layers)


def test_images_share_their_layers(tmp_path: Path, repository: Path) -> None:
    """The second image brings one layer, and is added to the origins of the other; nothing else of it changes."""
    first = make_image(tmp_path / "first", BASE, ref="registry.example/first:1")
    publish(first, repository)
    layout = Layout(repository)
    before = state(layout.layerfs(Digest.parse(first.layers[0])))
    second = make_image(tmp_path / "second", BASE, TOP, ref="registry.example/second:1")
    report = publish(second, repository)
    assert ([str(d) for d in report.published], [str(d) for d in report.present]) == (
        [second.layers[1]],
        [second.layers[0]],
    )
    origins = json.loads(layout.origin_json(Digest.parse(first.layers[0])).read_bytes())
    assert origins == {"origin": [first.config, second.config]}
    assert state(layout.layerfs(Digest.parse(first.layers[0]))) == before


def test_a_layer_that_stands_twice_is_unpacked_once(tmp_path: Path, repository: Path) -> None:
    """And read once; the manifest still names it twice."""
    image = make_image(tmp_path / "image", BASE, TOP, BASE)
    report = publish(image, repository)
    assert [str(layer) for layer in report.published] == list(image.layers[:2])
    manifest = Repository("test", Layout(repository)).get_image(Reference.parse(REF)).manifest
    assert [str(layer.digest) for layer in manifest.layers] == list(image.layers)


def test_a_tag_that_moved(tmp_path: Path, repository: Path) -> None:
    """The manifest is replaced; the layers of the old image stay for who uses them."""
    old = make_image(tmp_path / "old", BASE)
    publish(old, repository)
    new = make_image(tmp_path / "new", TOP)
    assert publish(new, repository).changed
    reader = Repository("test", Layout(repository))
    assert [str(x.digest) for x in reader.get_image(Reference.parse(REF)).manifest.layers] == list(new.layers)
    assert Layout(repository).layerfs(Digest.parse(old.layers[0])).is_dir()


def test_another_publisher_s_layer_is_left_as_it_is(tmp_path: Path, repository: Path) -> None:
    """It is used and reported; nothing is written into it but the origin, and no link vouches for its diff id."""
    image = make_image(tmp_path / "image", BASE, TOP)
    ducc = Form(Notation.OCI, as_ingested=True, record=False)
    publish(make_image(tmp_path / "base", BASE, ref="registry.example/base:1"), repository, ducc)
    report = publish(image, repository)
    layout = Layout(repository)
    assert [str(layer) for layer in report.left] == [image.layers[0]]
    assert not layout.tree_record(report.left[0]).exists()
    assert [os.path.lexists(layout.diff_id_link(Digest.parse(d))) for d in image.diff_ids] == [False, True]


def test_a_run_that_was_interrupted_is_finished(tmp_path: Path, repository: Path) -> None:
    """Layers without a manifest, an origin without its layer, leftovers in the staging area."""
    image = make_image(tmp_path / "image", BASE, TOP)
    layout, top = Layout(repository), Digest.parse(image.layers[1])
    publish(make_image(tmp_path / "base", BASE, ref="registry.example/base:1"), repository)
    layout.origin_json(top).parent.mkdir(parents=True)
    layout.origin_json(top).write_text('{"origin":["sha256:' + "0" * 64 + '"]}')
    leftover = layout.publisher_state / "staging" / "9" / "layerfs" / "deep"
    leftover.mkdir(parents=True)
    (leftover / "link").symlink_to(tmp_path)
    report = publish(image, repository)
    assert report.published == (top,)
    assert json.loads(layout.origin_json(top).read_bytes())["origin"] == ["sha256:" + "0" * 64, image.config]
    assert state(repository)["staged"] == ()
    assert (tmp_path / "image").is_dir()


def test_records_that_do_not_fit_the_image(tmp_path: Path, repository: Path) -> None:
    """A config that lies about the diff id of a layer that is there, and a damaged record: somebody has to look."""
    blob = make_image(tmp_path / "image", BASE)
    publish(blob, repository)
    liar = craft_image(tmp_path / "liar", Blob(blob.blob(blob.layers[0]).read_bytes(), b"another tar"))
    before = state(repository)
    with pytest.raises(DataLoss, match="is published with the diff id"):
        publish(liar, repository)
    assert state(repository) == before
    record = Layout(repository).tree_record(Digest.parse(blob.layers[0]))
    record.write_bytes(record.read_bytes()[:50])
    with pytest.raises(ContractError, match="tree record"):
        publish(blob, repository)


def test_a_layer_that_is_there_and_no_directory(tmp_path: Path, repository: Path) -> None:
    """It is not removed: whoever put it there decides."""
    image = make_image(tmp_path / "image", BASE)
    layerfs = Layout(repository).layerfs(Digest.parse(image.layers[0]))
    layerfs.parent.mkdir(parents=True)
    layerfs.write_text("what is this")
    with pytest.raises(FailedPrecondition, match="is there and cannot be read"):
        publish(image, repository)
    assert layerfs.read_text() == "what is this"


@pytest.mark.parametrize(
    ("mediatype", "words"),
    [
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "encrypted"),
    ],
)
def test_layers_that_cannot_be_published(tmp_path: Path, repository: Path, mediatype: str, words: str) -> None:
    """Refused by their type, before anything is read."""
    image = craft_image(tmp_path / "image", Blob(BASE, BASE, mediatype=mediatype))
    with pytest.raises(InvalidArgument, match=words):
        publish(image, repository)
    assert state(repository) == {"staged": ()}


def test_a_config_with_other_layers_than_the_manifest(tmp_path: Path, repository: Path) -> None:
    """The image is damaged; nothing is guessed."""
    image = craft_image(tmp_path / "image", Blob(BASE, BASE), layers=[
        {"digest": digest(BASE), "size": len(BASE)}, {"digest": digest(BASE), "size": len(BASE)}
    ])  # fmt: skip
    with pytest.raises(InvalidArgument, match="names 1 diff ids for 2 layers"):
        publish(image, repository)


def test_an_image_needs_a_name(tmp_path: Path, repository: Path) -> None:
    """A layout whose directory cannot name it needs one; a name that is given wins over the source's."""
    image = write_image(tmp_path / "an image", [BASE], "latest")
    with pytest.raises(InvalidArgument, match="give --name"):
        publish(image, repository)
    name = Reference.parse("registry.example/other:2")
    publish_image(open_source(image.source, AMD64), repository, name=name, durable=False, reserve=0)
    assert Layout(repository).manifest_json(name).is_file()


def test_a_durable_publication(tmp_path: Path, repository: Path) -> None:
    """The way it runs in earnest: waiting for the disk changes nothing of the result."""
    image = make_image(tmp_path / "image", BASE)
    assert publish_image(open_source(image.source, AMD64), repository).changed
    assert not publish_image(open_source(image.source, AMD64), repository).changed


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(bytes(6 << 20), id="bomb"),
        pytest.param(os.urandom(6 << 20), id="large", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("reserve", [None, 0], ids=["reserve", "to the end"])
def test_an_image_that_does_not_fit(tmp_path: Path, content: bytes, reserve: int | None) -> None:
    """Refused at the reserve or at the file system's end; the space is free again, and a smaller image fits."""
    image = make_image(tmp_path / "image", BASE, layer_tar([File(f"f{n}", content) for n in range(3)]))
    small = make_image(tmp_path / "small", BASE, ref="registry.example/small:1")
    with mounted("tmpfs", "tmpfs", tmp_path / "disk", ["size=16m"]) as disk:
        publish(small, disk)
        before, free = state(disk), os.statvfs(disk).f_bavail
        with pytest.raises(ResourceExhausted, match="free some space"):
            publish_image(open_source(image.source, AMD64), disk, reserve=reserve, durable=False)
        assert state(disk) == before
        assert os.statvfs(disk).f_bavail == free


def test_more_files_than_inodes(tmp_path: Path) -> None:
    """Empty files are not free."""
    image = make_image(tmp_path / "image", layer_tar([File(str(number)) for number in range(3000)]))
    with mounted("tmpfs", "tmpfs", tmp_path / "disk", ["nr_inodes=2000"]) as disk:
        with pytest.raises(ResourceExhausted, match="inodes"):
            publish(image, disk)
        assert state(disk) == {"staged": ()}


def test_a_read_only_repository(tmp_path: Path) -> None:
    """Somebody gives the mount instead of the directory that it is published from."""
    image = make_image(tmp_path / "image", BASE)
    (tmp_path / "source").mkdir()
    with (
        mounted("none", str(tmp_path / "source"), tmp_path / "mount", ["bind", "ro"]) as mount,
        pytest.raises(FailedPrecondition, match="read-only"),
    ):
        publish(image, mount)
    with pytest.raises(FailedPrecondition, match="is not a directory"):
        publish(image, tmp_path / "nowhere")


def test_nothing_is_shown_when_the_body_fails(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is that fails: it is what the caller sees, and the staging area is empty."""
    image, calls = make_image(tmp_path / "image", BASE, TOP), list[object]()

    def fails_at_the_second(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            raise ZeroDivisionError("a bug")
        return unpack(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("publisher.publishing.staging.unpack", fails_at_the_second)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        publish(image, repository)
    assert state(repository) == {"staged": ()}


@pytest.mark.parametrize(
    "mediatype",
    [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ],
)
def test_foreign_layers_are_skipped(tmp_path: Path, repository: Path, mediatype: str) -> None:
    """No registry holds them: they are neither read nor published, and the report names them; the others are there,
    and so is the manifest with all of them. A second run changes nothing."""
    image = craft_image(tmp_path / "image", Blob(BASE, BASE, mediatype=mediatype), Blob(TOP, TOP))
    report = publish(image, repository)
    assert [str(digest) for digest in report.foreign] == [image.layers[0]]
    assert [str(digest) for digest in report.published] == [image.layers[1]]
    assert not Layout(repository).layer(Digest.parse(image.layers[0])).exists()
    manifest = Repository("test", Layout(repository)).get_image(Reference.parse(REF)).manifest
    assert [str(layer.digest) for layer in manifest.layers] == list(image.layers)
    assert not publish(image, repository).changed
