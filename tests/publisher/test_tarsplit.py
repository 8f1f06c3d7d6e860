"""A layer's tar comes back byte for byte from its tar-split and its files."""

import base64
import gzip
import io
import json
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import InvalidArgument
from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Descriptor
from cvmfsrepo.tree import Notation
from publisher.publishing.form import Form
from publisher.unpacking.space import FreeSpace
from publisher.unpacking.unpack import unpack
from tests.examples import examples
from tests.images.nasty import ALL
from tests.images.stack import Layers
from tests.images.strategies import stacks
from tests.images.tarlayer import Device, Dir, Entry, File, Hardlink, Symlink, Whiteout, layer_tar
from tests.publisher.publishing import make_image, make_repository, publish, state
from tests.publisher.test_unpack import sparse_tar

pytestmark = pytest.mark.root

MIB = 1 << 20


def crc_table() -> Iterator[int]:
    """Of CRC-64 with the polynomial of ISO 3309, bits reflected."""
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0xD8 << 56 if value & 1 else 0)
        yield value


TABLE = tuple(crc_table())


def crc64(content: bytes) -> bytes:
    """As Go's hash/crc64 with its ISO table writes it."""
    crc = (1 << 64) - 1
    for byte in content:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return (crc ^ (1 << 64) - 1).to_bytes(8, "big")


def assemble(split: bytes, layerfs: Path) -> bytes:
    """The tar, put together as containers/storage does, and as strictly as its readers have ever been."""
    tar, names = b"", set[bytes]()
    for number, line in enumerate(gzip.decompress(split).splitlines()):
        entry = json.loads(line)
        payload = base64.b64decode(entry.pop("payload"), validate=True)
        assert entry.pop("position") == number
        if entry == {"type": 2}:
            tar += payload
            continue
        name = base64.b64decode(entry["name_raw"]) if "name_raw" in entry else entry["name"].encode()
        assert entry.keys() == {"type", "size", "name_raw" if "name_raw" in entry else "name"}
        content = (layerfs / name.decode("utf-8", "surrogateescape")).read_bytes()
        assert (entry["type"], entry["size"], payload) == (1, len(content), crc64(content))
        assert name not in names, "readers refuse it"
        names.add(name)
        tar += content
    return tar


def split_of(tar: bytes, directory: Path, notation: Notation = Notation.OVERLAY) -> bytes | None:
    """The tar-split that a layer gets; its files are in `directory / "layerfs"`."""
    layerfs, split = directory / "layerfs", directory / "split"
    layerfs.mkdir()
    digest = Digest.of(tar)
    space = FreeSpace(directory, 0)
    unpack(io.BytesIO(tar), Descriptor(str(digest), len(tar)), digest, layerfs, notation, space, lambda n: None, split)  # type: ignore[arg-type]
    return split.read_bytes() if split.exists() else None


def assert_comes_back(tar: bytes, directory: Path, notation: Notation = Notation.OVERLAY) -> None:
    split = split_of(tar, directory, notation)
    assert split is not None, "no tar-split was written"
    assert assemble(split, directory / "layerfs") == tar


def test_the_checksum() -> None:
    """The value that catalogues of CRCs give for GO-ISO, so that this file's own is right."""
    assert crc64(b"123456789").hex() == "b90956c775a41001"


@pytest.mark.parametrize("notation", Notation)
@pytest.mark.parametrize("name", sorted(ALL))
def test_every_nasty_layer_comes_back(tmp_path: Path, name: str, notation: Notation) -> None:
    """Of every nasty image, in both notations, but for the one that is about members that come twice."""
    without = 0
    for number, tar in enumerate(dict.fromkeys(ALL[name].tars())):
        directory = tmp_path / str(number)
        directory.mkdir()
        split = split_of(tar, directory, notation)
        assert split is None or assemble(split, directory / "layerfs") == tar
        without += split is None
    assert without == (name == "members_listed_twice")


@pytest.mark.parametrize("notation", Notation)
def test_random_layers_come_back(notation: Notation) -> None:
    """Whatever is in them, and whether or not the last member is padded."""

    @settings(max_examples=examples(60), deadline=None)
    @given(layers=stacks(), closed=st.booleans())
    def check(layers: Layers, closed: bool) -> None:
        for entries in layers:
            with tempfile.TemporaryDirectory(prefix="split-") as directory:
                assert_comes_back(layer_tar(entries, closed=closed), Path(directory), notation)

    check()


NAME = st.sampled_from(["a", "b", "d/a", "d/b", "\udcff"])
CONTENT = st.sampled_from([b"", b"x", b"other", b"long" * 300])
MEMBERS = st.lists(
    st.one_of(
        st.builds(File, NAME, CONTENT), st.builds(Whiteout, NAME), st.builds(Hardlink, NAME, NAME), st.just(Dir("d")),
        st.builds(Symlink, NAME, NAME), st.builds(lambda name: Device(name, 0, 0), NAME), st.builds(Dir, NAME),
    ),
    max_size=8,
)  # fmt: skip


@settings(max_examples=examples(300), deadline=None)
@given(members=MEMBERS)
def test_names_that_come_again(members: list[Entry]) -> None:
    """The tar comes back, or the layer has no tar-split; that only if the name of a file with content comes again."""
    tar = layer_tar(members)
    with tempfile.TemporaryDirectory(prefix="split-") as directory:
        try:
            split = split_of(tar, Path(directory))
        except InvalidArgument:
            return  # a link to nothing, a directory below a file: no layer at all
        if split is not None:
            assert assemble(split, Path(directory, "layerfs")) == tar
            return
    filled = [number for number, entry in enumerate(members) if isinstance(entry, File) and entry.content]
    assert any(members[number].path == later.path for number in filled for later in members[number + 1 :])


@pytest.mark.parametrize(
    "entries",
    [
        [File("a", b"one"), File("a", b"two")],
        [File("a", b"same"), File("a", b"same")],
        [File("a", b"one"), File("a", b"")],
        [File("a", b"one"), Symlink("a", "b")],
        [File("a", b"one"), Device("a", 0, 0)],
        [File("b", b"two"), File("a", b"one"), Hardlink("a", "b")],
        [File("a", b"one"), Hardlink("b", "a"), File("a", b"two")],
        [File("d/e/a", b"one"), File("d", b"a file")],
        [File("d/e/a", b"one"), Device("d", 0, 0)],
    ],
)
def test_a_file_that_is_replaced(tmp_path: Path, entries: Sequence[Entry]) -> None:
    """By whatever: its content is not on the disk any more, or its name would come twice. No file is written."""
    assert split_of(layer_tar(entries), tmp_path) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layerfs"]


@pytest.mark.parametrize(
    "entries",
    [
        [Dir("d"), Dir("d", mode=0o700), File("d/x", b"kept"), Dir("d")],
        [File("a"), File("a", b"full")],
        [Symlink("a", "b"), File("a", b"full"), Hardlink("b", "a"), Symlink("b", "c")],
        [File("a", b"kept"), Whiteout("a"), Whiteout("a")],
        [File("f", b"f"), Hardlink("d/f", "f"), File("d", b"a file now")],
    ],
)
def test_replacements_that_cost_no_content(tmp_path: Path, entries: Sequence[Entry]) -> None:
    """Directories, links and empty files may come again, and a marker is about the layers below."""
    assert_comes_back(layer_tar(entries), tmp_path)


def archive(form: int, **headers: str) -> bytes:
    """By the standard library's writer: long names, large numbers, names that are not UTF-8."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, pax_headers=headers, errors="surrogateescape") as tar:
        for name, content in (("./long/" * 20 + "name", b"bytes"), ("\udcff\"'<&>\u2028\x01", b"odd" * 200)):
            info = tarfile.TarInfo(name)
            info.size, info.uid = len(content), 70_000
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_formats_of_other_tools(tmp_path: Path, form: int) -> None:
    """GNU's long names, pax with a global header, ustar with a prefix; the archive's padding to 10 KiB."""
    assert_comes_back(archive(form, **({"comment": "all"} if form == tarfile.PAX_FORMAT else {})), tmp_path)


def test_names_are_written_plainly(tmp_path: Path) -> None:
    """As they stand in the layer, for readers join them to its path; `name_raw` where JSON has no text for them."""
    split = split_of(archive(tarfile.GNU_FORMAT), tmp_path)
    entries = [json.loads(line) for line in gzip.decompress(split or b"").splitlines()]
    long, odd = [{key: entry[key] for key in entry if "name" in key} for entry in entries if entry["type"] == 1]
    assert long == {"name": "long/" + "long/" * 19 + "name"}
    assert odd == {"name_raw": base64.b64encode(b"\xff\"'<&>\xe2\x80\xa8\x01").decode()}


@pytest.mark.parametrize("size", [1, 511, 512, 513, MIB - 1, MIB, MIB + 1, 3 * MIB + 7])
def test_sizes_around_blocks_and_chunks(tmp_path: Path, size: int) -> None:
    """A file that is read in several pieces has one checksum."""
    content = (bytes(range(251)) * (size // 251 + 1))[:size]
    assert_comes_back(layer_tar([File("a", content), File("z"), File("b", content)]), tmp_path)


@pytest.mark.parametrize("tar", [b"", bytes(512), bytes(1024), layer_tar([File("x", b"x")]) + bytes(5 * MIB)])
def test_ends(tmp_path: Path, tar: bytes) -> None:
    """No bytes at all, empty blocks alone, megabytes of padding."""
    assert_comes_back(tar, tmp_path)


def test_an_archive_without_an_end(tmp_path: Path) -> None:
    """It stops with its last member's last byte: the padding that a reader makes up is not written."""
    tar = layer_tar([File("a", b"one"), File("b", b"two")], closed=False)
    assert len(tar) % 512 == 3
    assert_comes_back(tar, tmp_path)


def test_sparse_files_stand_in_segments(tmp_path: Path) -> None:
    """The file has holes, and the tar has none."""
    assert_comes_back(sparse_tar(), tmp_path)


@pytest.mark.parametrize("notation", Notation)
@pytest.mark.parametrize("name", [".wh.gone", ".wh..wh..opq", ".wh..wh.plnk/12.34", ".wh..wh.aufs"])
def test_markers_with_content(tmp_path: Path, name: str, notation: Notation) -> None:
    """A marker's bytes mean nothing and are on no disk, but they are of the tar."""
    assert_comes_back(
        layer_tar([File("a", b"a"), File(name, b"meant for nobody"), File("b", b"b")]), tmp_path, notation
    )


def test_equal_layers_give_equal_bytes(tmp_path: Path) -> None:
    """Without a time or a name in the gzip header."""
    tar, found = layer_tar([File("a", b"one" * 5000), Dir("d")]), set[bytes | None]()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        found.add(split_of(tar, tmp_path / name))
    (split,) = found
    assert (split or b"")[:8] == b"\x1f\x8b\x08\0\0\0\0\0"


def test_a_published_layer_has_one(tmp_path: Path) -> None:
    """In its metadata, readable by all; what is a test's imitation of DUCC has none."""
    tar = layer_tar([File("x", b"content")])
    image = make_image(tmp_path / "image", tar)
    layer = Digest.parse(image.layers[0])
    for name, form, is_there in (
        ("ours", Form(), True),
        ("raw", Form(Notation.OCI), True),
        ("ingested", Form(Notation.OCI, as_ingested=True), False),
        ("ducc", Form(record=False), False),
    ):
        layout = Layout(make_repository(tmp_path / name))
        publish(image, layout.root, form)
        assert layout.tar_split(layer).exists() is is_there, name
        if is_there:
            assert layout.tar_split(layer).stat().st_mode & 0o777 == 0o644
            assert assemble(layout.tar_split(layer).read_bytes(), layout.layerfs(layer)) == tar


def test_a_layer_that_is_there_gets_none(tmp_path: Path) -> None:
    """It is not read again: layers of older publications stay without."""
    image, layout = make_image(tmp_path / "image", layer_tar([File("x", b"y")])), Layout(tmp_path / "repository")
    make_repository(layout.root)
    publish(image, layout.root)
    layout.tar_split(Digest.parse(image.layers[0])).unlink()
    before = state(layout.root)
    assert not publish(image, layout.root).changed
    assert state(layout.root) == before
