"""Deletions in both notations, and what kernel overlayfs makes of the one that is written for it."""

import json
import os
import stat
from pathlib import Path

import pytest

from cvmfsrepo import xattrs
from cvmfsrepo.digest import Digest
from cvmfsrepo.layout import Layout
from cvmfsrepo.tree import Notation, decode
from cvmfsrepo.whiteouts import Markers
from publisher.publishing.form import Form
from tests.images.nasty import ALL
from tests.images.oracle import apply
from tests.images.tarlayer import Device, Dir, File, Hardlink, Opaque, Whiteout
from tests.images.treefacts import Tree, read_tree
from tests.mounting import overlay
from tests.publisher.publishing import make_image, make_repository, publish, publish_layer

pytestmark = pytest.mark.root

RAW = Form(Notation.OCI)
DELETING = (
    Dir("d"), File("d/kept"), Whiteout("d/gone", uid=7, gid=8), Opaque("o"), Dir("again", mode=0o711),
    File("again/x"), Whiteout("again"), Whiteout("file"), File("file", b"new"), Whiteout("far/away"),
    Whiteout("implied"), File("implied/x"), File(".wh..wh.plnk/12.34"), File("d/.wh..wh.aufs"), Opaque("."),
)  # fmt: skip
WHITEOUTS = (b"again", b"d/gone", b"far/away", b"file", b"implied")


def is_whiteout(path: Path) -> bool:
    status = os.lstat(path)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def test_overlay_notation(tmp_path: Path) -> None:
    """0:0 devices and opaque marks; what the layer makes again wins, a directory of these is opaque."""
    layerfs, record = publish_layer(tmp_path, DELETING)
    assert [name for name in ("d/gone", "far/away") if is_whiteout(layerfs / name)] == ["d/gone", "far/away"]
    status = os.lstat(layerfs / "d/gone")
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0, 7, 8)
    directories = ("", "o", "again", "implied", "d", "far")
    marked = [name for name in directories if xattrs.read(layerfs / name, "trusted.overlay.opaque")]
    assert marked == ["", "o", "again", "implied"]
    assert (layerfs / "file").read_bytes() == b"new"
    assert not list(layerfs.rglob(".wh.*"))
    assert record.head.markers == Markers(WHITEOUTS, (b"", b"again", b"implied", b"o"))
    implied = {entry.path for entry in record.entries if entry.implied}
    assert implied == {b"", b"o", b"far", b"implied"}


def test_oci_notation(tmp_path: Path) -> None:
    """The raw names as empty files; AUFS's reserved ones are dropped here, too."""
    layerfs, record = publish_layer(tmp_path, DELETING, RAW)
    raw = {str(path.relative_to(layerfs)) for path in layerfs.rglob(".wh.*")}
    assert raw == {
        ".wh..wh..opq", "d/.wh.gone", "o/.wh..wh..opq", ".wh.again", ".wh.file", "far/.wh.away", ".wh.implied"
    }  # fmt: skip
    assert {(layerfs / name).stat().st_size for name in raw} == {0}
    assert (layerfs / "d/.wh.gone").stat().st_uid == 7
    assert record.head.markers == Markers(WHITEOUTS, (b"", b"o"))
    assert not [entry for entry in record.entries if b".wh." in entry.path]


@pytest.mark.parametrize("form", [Form(), RAW], ids=["overlay", "oci"])
def test_a_raw_upper_directory_of_overlayfs(tmp_path: Path, form: Form) -> None:
    """Somebody packed what overlayfs keeps: its devices (hard-linked since Linux 5.8) and marks are deletions."""
    entries = [
        Dir("d", xattrs={"trusted.overlay.opaque": b"y", "trusted.overlay.origin": b"\0\1"}),
        Device("a", 0, 0), Hardlink("b", "a"), Device("c", 0, 0), File("c", b"made later"),
        File("e", xattrs={"user.overlay.impure": b"y", "user.kept": b"k"}), File("f"), Device("f", 0, 0),
    ]  # fmt: skip
    layerfs, record = publish_layer(tmp_path, entries, form)
    assert record.head.markers == Markers((b"a", b"b", b"f"), (b"d",))
    assert {entry.path for entry in record.entries} == {b"", b"c", b"d", b"e"}
    attributes = {entry.path: entry.xattrs for entry in record.entries if entry.xattrs}
    assert attributes == {b"e": {"user.kept": b"k"}}
    assert os.path.lexists(layerfs / "a") == (form.notation is Notation.OVERLAY)
    assert (layerfs / ".wh.b").exists() == (form.notation is Notation.OCI)


@pytest.mark.parametrize("name", sorted(n for n in ALL if len(set(ALL[n].tars())) == len(ALL[n].layers)))
def test_the_kernel_honours_the_overlay_notation(tmp_path: Path, name: str, short_path: Path) -> None:
    """Nasty images mounted straight from the repository: all as in the image specification, but for the metadata of
    directories that a layer does not list, which needs the node's help (and so does a layer that stands twice)."""
    tars = ALL[name].tars()
    repository = make_repository(short_path / "r")
    publish(make_image(tmp_path / "image", *tars), repository)
    layers = _layers(short_path, repository, tmp_path / "image")
    undated = apply(tars, tmp_path / "oracle")
    expected = read_tree(tmp_path / "oracle", undated)
    with overlay([*reversed(layers), _empty(short_path)], short_path / "m") as mounted:
        found = read_tree(mounted, undated)
    implied = {os.fsdecode(path) or "." for path in _ever_implied(repository)} | {"."}
    assert _without_metadata(found, implied) == _without_metadata(expected, implied)


def _empty(directory: Path) -> Path:
    """overlayfs wants two lowers."""
    (directory / "e").mkdir()
    return directory / "e"


def _layers(directory: Path, repository: Path, image: Path) -> list[Path]:
    """Links to the image's layers, base first, each with a short name of its own."""
    index = json.loads((image / "index.json").read_bytes())
    digest = index["manifests"][0]["digest"].removeprefix("sha256:")
    manifest = json.loads((image / "blobs" / "sha256" / digest).read_bytes())
    links = []
    for number, layer in enumerate(manifest["layers"]):
        link = directory / str(number)
        link.symlink_to(Layout(repository).layerfs(Digest.parse(layer["digest"])))
        links.append(link)
    return links


def _ever_implied(repository: Path) -> set[bytes]:
    records = [decode(path.read_bytes()) for path in repository.glob(".layers/*/*/.metadata/tree.v1")]
    return {entry.path for record in records for entry in record.entries if entry.implied}


def _without_metadata(tree: Tree, implied: set[str]) -> dict[str, object]:
    return {path: facts.kind if path in implied else facts for path, facts in tree.items()}
