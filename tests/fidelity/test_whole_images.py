"""Whole images, as people build them, in every form on the stand-in mount, against a real pull."""

import os
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from cvmfsrepo.compare import compare, scan
from cvmfsrepo.digest import Digest
from cvmfsrepo.tree import Entry
from tests.engines.busybox import push_pause
from tests.engines.containerd import Containerd
from tests.engines.cri import Cri
from tests.engines.node import Snapshotter
from tests.engines.registry import Registry
from tests.fidelity.proof import image_of, undated_directories
from tests.fidelity.publishing import INGEST_OWNER, Form, publish
from tests.images import oracle
from tests.images.debian import debian_image, deep_image
from tests.images.ocilayout import Image, read_layers
from tests.mounting import standin

pytestmark = [
    pytest.mark.engine, pytest.mark.fuse, pytest.mark.root, pytest.mark.slow,
]  # fmt: skip

IMAGES: dict[str, Callable[[], Image]] = {"debian": debian_image, "deep": deep_image}
SERVING_VERSION = {Form.OVERLAY: "2.1", Form.OCI: "1.6", Form.INGESTED: "1.7"}
"""Each form is served to another generation of containerd; the ordinary pull is the newest one's."""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry")) as started:
        for name, build in IMAGES.items():
            image = build()
            started.push(image.path, image.ref, f"test/{name}:1")
        yield started


@pytest.fixture(scope="module")
def pulled(registry: Registry) -> Iterator[Containerd]:
    """The ordinary way, with overlayfs."""
    with Containerd("2.1", push_pause(registry)) as containerd, Cri(containerd.socket) as cri:
        for name in IMAGES:
            cri.pull(registry.reference(f"test/{name}:1"))
        yield containerd


@pytest.fixture(scope="module", params=[Form.OVERLAY, Form.OCI, Form.INGESTED])
def served(
    request: pytest.FixtureRequest, registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Form, Containerd]]:
    """From a repository of one form on the stand-in mount; no layer may be asked of the registry."""
    base, form = tmp_path_factory.mktemp("served"), request.param
    for name, build in IMAGES.items():
        publish(build(), base / "repository", registry.reference(f"test/{name}:1"), form)
    with (
        standin(base / "repository", base / "cvmfs", kcache=60),
        Snapshotter(base / "state", base / "cvmfs") as snapshotter,
        Containerd(SERVING_VERSION[form], push_pause(registry), snapshotter.proxy) as containerd,
        Cri(containerd.socket) as cri,
    ):
        mark = registry.mark()
        for name in IMAGES:
            cri.pull(registry.reference(f"test/{name}:1"))
        layers = {layer for build in IMAGES.values() for layer in build().layers}
        assert layers.isdisjoint(registry.blob_requests(mark))
        yield form, containerd


@cache
def undated(name: str) -> frozenset[bytes]:
    """Directories whose time a pull makes up."""
    with tempfile.TemporaryDirectory() as directory:
        paths = oracle.apply(read_layers(IMAGES[name]()), Path(directory, "tree"))
    return frozenset(b"" if path == "." else os.fsencode(path) for path in paths)


@pytest.mark.parametrize("name", IMAGES)
def test_the_root_file_system_is_the_pulled_one(name: str, pulled: Containerd, served: tuple[Form, Containerd]) -> None:
    """Equal in every name, attribute and byte, but for what the mount (hard links) and an ingest (owners,
    attributes) have lost, each of which is exactly what that loses."""
    form, containerd = served
    diff_ids = [Digest.parse(diff_id) for diff_id in IMAGES[name]().diff_ids]
    with image_of(pulled, diff_ids) as expected, image_of(containerd, diff_ids) as found:
        tree = scan(expected)
        differences = compare(expected, found, ignore=undated_directories(undated(name)))
    losses = {field: {d.path for d in differences if d.field == field} for field in _LOST[form]}
    assert [str(d) for d in differences if d.field not in losses] == []
    assert losses["hard-links"] == {path for path, entry in tree.items() if entry.group}
    if form is Form.INGESTED:
        files = {path: entry for path, entry in tree.items() if not entry.is_directory}
        for field, own in (("uid", INGEST_OWNER[0]), ("gid", INGEST_OWNER[1])):
            assert losses[field] >= {path for path, entry in files.items() if getattr(entry, field) != own}
        attributed = {path for path, entry in tree.items() if entry.xattrs}
        assert attributed >= losses["xattrs"] >= attributed & files.keys()
        assert all(_whole(tree[path]) for path in losses["mtime"])


_LOST = {
    Form.OVERLAY: ("hard-links",),
    Form.OCI: ("hard-links",),
    Form.INGESTED: ("hard-links", "uid", "gid", "xattrs", "mtime"),
}


def _whole(entry: Entry) -> bool:
    """Whether a time has parts of a second to lose."""
    return entry.mtime % 10**9 != 0
