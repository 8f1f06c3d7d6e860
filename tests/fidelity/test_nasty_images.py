"""Every nasty image, in every notation, on a plain directory and on the stand-in mount, against a real pull."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec
import pytest

from cvmfsrepo.compare import Difference, compare, scan
from cvmfsrepo.digest import Digest
from snapshotter.snapshotter import Snapshotter
from tests.engines.busybox import push_pause
from tests.engines.containerd import Containerd
from tests.engines.registry import Registry
from tests.fidelity.proof import image_of, undated_directories, viewed
from tests.fidelity.publishing import INGEST_OWNER, Form, publish
from tests.fidelity.pulling import node, pull
from tests.images import nasty, oracle
from tests.images.ocilayout import Compression, Image, write_image
from tests.mounting import standin

pytestmark = [pytest.mark.engine, pytest.mark.fuse, pytest.mark.root]

VERSION = "2.1"


@dataclass(frozen=True)
class Served:
    """One repository form as a node shows it: from the plain directory, and from the stand-in mount."""

    directory: Snapshotter
    mount: Snapshotter


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Image]:
    """One layout with every stack as an image; layers are compressed in turn by gzip, zstd and not at all."""
    layout = tmp_path_factory.mktemp("nasty") / "layout"
    kinds: tuple[Compression, ...] = ("gzip", "zstd", "none")
    written = {}
    for name, stack in nasty.ALL.items():
        tars = stack.tars()
        written[name] = write_image(layout, tars, name, [kinds[n % 3] for n in range(len(tars))])
    return written


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, images: dict[str, Image]) -> Iterator[dict[Form, Served]]:
    """All images published in every form, each form with two nodes."""
    base = tmp_path_factory.mktemp("served")
    with contextlib.ExitStack() as held:
        forms = {}
        for form in Form:
            repository = base / form.value / "repository"
            for name, image in images.items():
                publish(image, repository, f"registry.example.org/test/{name}:1", form)
            held.enter_context(standin(repository, base / form.value / "cvmfs", kcache=60))
            forms[form] = Served(
                held.enter_context(node(base / form.value / "plain", repository)),
                held.enter_context(node(base / form.value / "node", base / form.value / "cvmfs")),
            )
        yield forms


@pytest.fixture(scope="module")
def pulled(tmp_path_factory: pytest.TempPathFactory, images: dict[str, Image]) -> Iterator[Containerd]:
    """A containerd that pulls the ordinary way."""
    with (
        Registry(tmp_path_factory.mktemp("registry")) as registry,
        Containerd(VERSION, push_pause(registry)) as containerd,
    ):
        yield containerd


@pytest.fixture
def expected(
    request: pytest.FixtureRequest, pulled: Containerd, images: dict[str, Image], name: str, tmp_path: Path
) -> Iterator[Path]:
    """The tree to be equal to: the pull's, or the image specification's where containerd departs from it."""
    stack, image = nasty.ALL[name], images[name]
    if stack.pull != "same":
        oracle.apply(stack.tars(), tmp_path / "truth")
        yield tmp_path / "truth"
        return
    import_image(pulled, image)
    with image_of(pulled, [Digest.parse(diff_id) for diff_id in image.diff_ids], "default") as root:
        yield root


def import_image(containerd: Containerd, image: Image) -> None:
    """Unpacks an image of a layout as a pull does, without a registry."""
    one = containerd.directory / f"{image.ref}.tar"
    if not one.exists():
        reference = f"registry.example.org/test/{image.ref}:1"
        _write_archive(image, reference, one)
        containerd.ctr("images", "import", "--snapshotter", "overlayfs", str(one))


def _write_archive(image: Image, reference: str, target: Path) -> None:
    """An OCI archive with this image alone."""
    import tarfile

    blobs = [image.manifest, image.config, *image.layers]
    manifest = image.blob(image.manifest)
    descriptor = {
        "mediaType": msgspec.json.decode(manifest.read_bytes())["mediaType"],
        "digest": image.manifest,
        "size": manifest.stat().st_size,
        "annotations": {"io.containerd.image.name": reference},
    }
    index = target.with_suffix(".index")
    index.write_bytes(msgspec.json.encode({"schemaVersion": 2, "manifests": [descriptor]}))
    with tarfile.open(target, "w") as archive:
        archive.add(image.path / "oci-layout", "oci-layout")
        archive.add(index, "index.json")
        for digest in dict.fromkeys(blobs):
            archive.add(image.blob(digest), f"blobs/sha256/{digest.removeprefix('sha256:')}")


@cache
def undated(name: str) -> frozenset[bytes]:
    """Directories of the final tree whose time a pull makes up."""
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        paths = oracle.apply(nasty.ALL[name].tars(), Path(directory, "tree"))
    return frozenset(b"" if path == "." else os.fsencode(path) for path in paths)


def _without_links(differences: list[Difference]) -> list[str]:
    return [str(difference) for difference in differences if difference.field != "hard-links"]


@pytest.mark.parametrize("form", [Form.OVERLAY, Form.OCI])
@pytest.mark.parametrize("name", sorted(nasty.ALL))
def test_a_plain_directory_is_served_equal(
    name: str, form: Form, expected: Path, served: dict[Form, Served], images: dict[str, Image]
) -> None:
    """From a plain directory every name, attribute, hard link and byte is the pull's, in both notations."""
    snapshotter = served[form].directory
    with viewed(snapshotter, pull(snapshotter, images[name])) as root:
        found = compare(expected, root, ignore=undated_directories(undated(name)))
        assert [str(difference) for difference in found] == []


@pytest.mark.parametrize("form", [Form.OVERLAY, Form.OCI])
@pytest.mark.parametrize("name", sorted(nasty.ALL))
def test_a_mount_is_served_equal_but_for_hard_links(
    name: str, form: Form, expected: Path, served: dict[Form, Served], images: dict[str, Image]
) -> None:
    """On a CVMFS mount the same holds, but that it shows each name of a hard-linked file as a file of its own."""
    snapshotter = served[form].mount
    with viewed(snapshotter, pull(snapshotter, images[name])) as root:
        found = compare(expected, root, ignore=undated_directories(undated(name)))
        assert _without_links(found) == []
        groups = {path for path, entry in scan(expected).items() if entry.group}
        assert {difference.path for difference in found} == groups


@pytest.mark.parametrize("form", [Form.INGESTED, Form.DUCC])
@pytest.mark.parametrize("name", sorted(nasty.ALL))
def test_an_ingested_repository_is_served_equal_but_for_what_ingest_lost(
    name: str, form: Form, expected: Path, served: dict[Form, Served], images: dict[str, Image]
) -> None:
    """Of layers ingested raw by a real server only owners, attributes, hard links and parts of a second are lost,
    and each loss has the value that the ingest gave it. Without our record an image's own file that is named like a
    catalog marker cannot be told from one, and is hidden."""
    snapshotter = served[form].mount
    with viewed(snapshotter, pull(snapshotter, images[name])) as root:
        found = compare(expected, root, ignore=undated_directories(undated(name)))
        for difference in found:
            match difference.field:
                case "uid":
                    assert difference.found == INGEST_OWNER[0], difference
                case "gid":
                    assert difference.found == INGEST_OWNER[1], difference
                case "mtime":
                    assert isinstance(difference.expected, int)
                    assert difference.found == difference.expected // 10**9 * 10**9, difference
                case "xattrs":
                    assert difference.found == {}, difference
                case "missing":
                    assert (form, os.path.basename(difference.path)) == (Form.DUCC, b".cvmfscatalog"), difference
                case "hard-links":
                    assert difference.found == [], difference
                case _:
                    pytest.fail(str(difference))
