"""Small images published into a directory of a test, and what can be seen of a repository before and after."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cvmfsrepo.digest import Digest
from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Platform
from cvmfsrepo.tree import Record, decode
from publisher.opening import open_source
from publisher.publishing.form import OURS, Form, Report
from publisher.publishing.publish import publish_image
from tests.images.ocilayout import Compression, Image, write_image
from tests.images.tarlayer import Entry, layer_tar

AMD64 = Platform("linux", "amd64")
REF = "registry.example/group/image:1"


def make_image(directory: Path, *tars: bytes, compression: Compression = "gzip", ref: str = REF) -> Image:
    """An OCI layout with one image of these tars."""
    return write_image(directory, tars, ref, compression=compression)


def make_repository(directory: Path) -> Path:
    directory.mkdir()
    return directory


def publish(image: Image, repository: Path, form: Form = OURS, reserve: int = 0) -> Report:
    """Without waiting for the disk: a test's repository is thrown away."""
    return publish_image(open_source(image.source, AMD64), repository, form, reserve=reserve, durable=False)


def publish_layer(directory: Path, tar: bytes | Sequence[Entry], form: Form = OURS) -> tuple[Path, Record]:
    """The layer directory and the record of an image of one layer, in a repository of its own."""
    content = tar if isinstance(tar, bytes) else layer_tar(tar)
    repository = make_repository(directory / "repository")
    image = make_image(directory / "image", content)
    publish(image, repository, form)
    layout, layer = Layout(repository), Digest.parse(image.layers[0])
    return layout.layerfs(layer), decode(layout.tree_record(layer).read_bytes())


def state(directory: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a directory with all times and contents; of the publisher's own area only what is staged."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, directories, files in os.walk(directory):
        if ".cvmfs-publisher" in directories:
            directories.remove(".cvmfs-publisher")
            found["staged"] = tuple(Path(folder, ".cvmfs-publisher").glob("staging/*"))
        for name in [*directories, *files]:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            content = hashlib.sha256(Path(path).read_bytes()).hexdigest() if Path(path).is_file() else ""
            found[path] = (status.st_mode, status.st_uid, status.st_mtime_ns, status.st_ino, content)
    return found


def command(*arguments: str) -> list[str]:
    """The command line of the publisher in this project."""
    return [sys.executable, "-m", "publisher.cli.main", *arguments]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120)
