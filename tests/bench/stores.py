"""The podman store of a large repository: how long a build takes.

1,000 images of 20 layers; 12 of each are one of 20 bases', so that 60 % of the layers that images name are shared.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from cvmfsrepo.compare import scan
from cvmfsrepo.digest import Digest
from cvmfsrepo.layout import CATALOG_MARKER, Layout
from cvmfsrepo.oci import Reference
from cvmfsrepo.repository import Pointer
from cvmfsrepo.tree import Notation, encode, make_record
from cvmfsrepo.whiteouts import Markers
from publisher import ducc
from tests.bench.samples import Row, Samples, Target

IMAGES, LAYERS, SHARED, BASES = 1000, 20, 12, 20

FULL = Row("store of 1,000 images of 20 layers: full build", target=Target(value=10.0))
NOTHING = Row("nothing changed", target=Target(value=1.0))
ONE_MORE = Row("one image more", target=Target(value=1.0))
MEMORY = Row("memory of the full build", "B", Target(value=300e6))
ROWS = (FULL, NOTHING, ONE_MORE, MEMORY)

_TIMES = 3

_SETTLED = 2.5
"""Seconds after which a file's times tell that it is the same: nobody builds twice within two seconds."""

_TYPE = "application/vnd.oci.image.{}.v1+json"


def measure(directory: Path, tell: Callable[[str], object]) -> Samples:
    """Builds a store in `directory` from nothing, and by turns again and with one image more; each in a process."""
    tell("a repository of 1,000 images")
    layout, samples = Layout(directory / "repository"), Samples()
    layers = {layer for number in range(IMAGES) for layer in layers_of(number)}
    for layer in sorted(layers):
        write_layer(layout, layer)
    for number in range(IMAGES):
        write_image(layout, number)
    tell(FULL.name)
    seconds, memory = _build(layout.root, directory / "store")
    samples.add(FULL, "ours", seconds)
    samples.add(MEMORY, "ours", memory)
    for number in range(IMAGES, IMAGES + _TIMES):
        tell(NOTHING.name)
        samples.add(NOTHING, "ours", _build(layout.root, directory / "store")[0])
        for layer in layers_of(number)[SHARED:]:
            write_layer(layout, layer)
        write_image(layout, number)
        tell(ONE_MORE.name)
        samples.add(ONE_MORE, "ours", _build(layout.root, directory / "store")[0])
    return samples


def layers_of(image: int) -> list[str]:
    """The names of an image's layers, base first."""
    base = [f"base {image % BASES}, layer {number}" for number in range(SHARED)]
    return [*base, *(f"image {image}, layer {number}" for number in range(SHARED, LAYERS))]


def write_layer(layout: Layout, name: str) -> None:
    """A layer as this project's publisher leaves it on CVMFS: one file, a catalog marker, a record."""
    digest, tree = Digest.of(name.encode()), layout.layerfs(Digest.of(name.encode()))
    tree.mkdir(parents=True)
    (tree / digest.hex).write_text(name)
    entries = scan(tree).values()
    (tree / CATALOG_MARKER).touch()
    layout.layer_metadata(digest).mkdir()
    record = make_record(digest, _diff_id(name), Notation.OVERLAY, entries, Markers(), [CATALOG_MARKER.encode()])
    layout.tree_record(digest).write_bytes(encode(record))
    layout.layers_json(digest).write_bytes(ducc.layers_json(digest, _diff_id(name), 10240))


def write_image(layout: Layout, number: int) -> None:
    """An image's documents: DUCC's manifest, and config and manifest byte for byte."""
    names = layers_of(number)
    reference = Reference.parse(f"registry.example.org/bench/image-{number}:1")
    config = msgspec.json.encode(
        {
            "os": "linux", "architecture": "amd64", "created": "2024-01-01T00:00:00Z", "config": {"Cmd": [str(number)]},
            "rootfs": {"type": "layers", "diff_ids": [str(_diff_id(name)) for name in names]},
        }
    )  # fmt: skip
    manifest = msgspec.json.encode(
        {
            "schemaVersion": 2, "mediaType": _TYPE.format("manifest"),
            "config": _descriptor(_TYPE.format("config"), Digest.of(config), len(config)),
            "layers": [
                _descriptor("application/vnd.oci.image.layer.v1.tar+gzip", Digest.of(name.encode()), 1000)
                for name in names
            ],
        }
    )  # fmt: skip
    _write(layout.blob(Digest.of(config)), config)
    _write(layout.blob(Digest.of(manifest)), manifest)
    _write(layout.image_pointer(reference), Pointer(Digest.of(manifest)).encode())
    _write(layout.manifest_json(reference), ducc.manifest_json(manifest))


def _descriptor(media_type: str, digest: Digest, size: int) -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(digest), "size": size}


def _diff_id(name: str) -> Digest:
    return Digest.of(f"tar of {name}".encode())


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _build(repository: Path, store: Path) -> tuple[float, float]:
    """Seconds of `cvmfs-podmanstore build`, the start of Python included, and its largest memory in bytes."""
    os.sync()  # what was written before is not the build's to wait for
    time.sleep(_SETTLED)
    command = [sys.executable, "-m", "tests.bench.stores", str(repository), str(store)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, memory = json.loads(said.splitlines()[-1])
    return seconds, memory


def _run_build(arguments: Sequence[str]) -> None:
    repository, store = arguments
    command = [sys.executable, "-m", "podmanstore.cli", "build", "--repository", repository, "--store", store]
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(json.dumps([time.monotonic() - started, memory]))


if __name__ == "__main__":
    _run_build(sys.argv[1:])
