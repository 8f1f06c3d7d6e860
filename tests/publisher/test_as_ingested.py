"""A layer as an ingest leaves it: it differs from its record in what publication loses, and in nothing else."""

import os
import stat
import time
from pathlib import Path

import pytest

from cvmfsrepo import compare
from cvmfsrepo.errors import InvalidArgument
from cvmfsrepo.tree import Notation, by_path
from publisher.publishing.form import Form
from publisher.unpacking.asingested import OWNER
from tests.images.tarlayer import MTIME_NS, Device, Dir, Fifo, File, Hardlink, Symlink, Whiteout
from tests.publisher.publishing import make_image, make_repository, publish, publish_layer

pytestmark = pytest.mark.root

INGESTED = Form(Notation.OCI, as_ingested=True)
ENTRIES = (
    Dir("d", mode=0o2750, uid=1, gid=2, mtime_ns=MTIME_NS + 5, xattrs={"user.d": b"d"}),
    File("d/su", b"#!", mode=0o4755, xattrs={"security.capability": b"\1\0\0\2" + bytes(16)}),
    Hardlink("d/again", "d/su", mode=0o4755), Symlink("s", "d/su", uid=9), Hardlink("s2", "s", mode=0o777),
    Device("d/null", 1, 3), Hardlink("d/zero", "d/null"), Fifo("d/pipe"), File("implied/x", mtime_ns=MTIME_NS + 7),
    Whiteout("d/gone"),
)  # fmt: skip


def test_what_an_ingest_loses_and_nothing_else(tmp_path: Path) -> None:
    """Owners, attributes, hard links, parts of seconds; modes and devices stay, markers and the catalog are there."""
    before = time.time()
    layerfs, record = publish_layer(tmp_path, ENTRIES, INGESTED)
    expected, found = by_path(record.entries), compare.scan(layerfs)
    differing = list(compare.differences(expected, found))
    by_field: dict[str, set[str]] = {}
    for difference in differing:
        by_field.setdefault(difference.field, set()).add(os.fsdecode(difference.path))
    everything = {os.fsdecode(entry.path) for entry in record.entries}
    assert by_field.pop("uid") == by_field.pop("gid") == everything
    assert by_field.pop("xattrs") == {"d", "d/su", "d/again"}
    assert by_field.pop("hard-links") == {"d/su", "d/again", "s", "s2", "d/null", "d/zero"}
    assert by_field.pop("extra") == {".cvmfscatalog", "d/.wh.gone"}
    assert by_field.pop("mtime") == {"", "d", "implied", "implied/x"}
    assert not by_field
    assert {(entry.uid, entry.gid) for entry in found.values()} == {OWNER}
    assert {entry.mtime % 10**9 for entry in found.values()} == {0}
    assert found[b"implied"].mtime // 10**9 >= int(before)
    assert record.head.extras == (b".cvmfscatalog",)


def test_the_catalog_markers(tmp_path: Path) -> None:
    """Empty, 0664, in the layer's root and in the directories above the layers."""
    layerfs, _ = publish_layer(tmp_path, ENTRIES, INGESTED)
    above = layerfs.parent.parent
    for directory in (layerfs, above, above.parent):
        status = os.stat(directory / ".cvmfscatalog")
        assert (stat.S_IMODE(status.st_mode), status.st_size, status.st_uid) == (0o664, 0, OWNER[0])


def test_the_image_s_own_file_of_that_name(tmp_path: Path) -> None:
    """It stays, and the record says whose it is."""
    layerfs, record = publish_layer(tmp_path, [File(".cvmfscatalog", b"mine")], INGESTED)
    assert (layerfs / ".cvmfscatalog").read_bytes() == b"mine"
    assert (record.head.extras, record.head.own_catalogs) == ((), (b".cvmfscatalog",))


def test_as_ducc_leaves_it(tmp_path: Path) -> None:
    """No record, no blobs, no links, and layers.json only if wanted."""
    repository = make_repository(tmp_path / "repository")
    image = make_image(tmp_path / "image", b"")
    publish(image, repository, Form(Notation.OCI, as_ingested=True, record=False, layers_json=False))
    files = {str(path.relative_to(repository)) for path in repository.rglob("*") if path.is_file()}
    above, layer = f".layers/{image.layers[0][7:9]}", f".layers/{image.layers[0][7:9]}/{image.layers[0][7:]}"
    assert files - {".cvmfs-publisher/lock"} == {
        ".layers/.cvmfscatalog", f"{above}/.cvmfscatalog", f"{layer}/layerfs/.cvmfscatalog",
        f"{layer}/.metadata/origin.json", ".metadata/registry.example/group/image:1/manifest.json",
    }  # fmt: skip


def test_only_raw_names_are_ingested() -> None:
    """The other notation never came out of an ingest of a tar."""
    with pytest.raises(InvalidArgument, match="notation oci"):
        Form(Notation.OVERLAY, as_ingested=True)
