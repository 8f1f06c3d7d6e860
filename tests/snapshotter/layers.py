"""Repositories made by hand in a plain directory, and the labels with which containerd asks for their layers."""

import fcntl
import os
import signal
from collections.abc import Mapping
from pathlib import Path

from cvmfsrepo.compare import scan
from cvmfsrepo.digest import Digest
from cvmfsrepo.layout import Layout, diff_id_target
from cvmfsrepo.tree import Entry, Notation, encode, make_record
from cvmfsrepo.whiteouts import Markers
from snapshotter import labels as label
from tests.suites.contract import Verbs

NAME = "unpacked.example.org"


class HandMade:
    """A repository: layers are added with the content that is given, and nothing more."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)
        self.layout.layers.mkdir(parents=True, exist_ok=True)

    @property
    def root(self) -> Path:
        return self.layout.root

    def add(self, word: str, files: Mapping[str, str | None] | None = None) -> Digest:
        """A layer named by the digest of `word`; `files` maps paths to content, None for a directory."""
        digest = Digest.of(word.encode())
        base = self.layout.layerfs(digest)
        base.mkdir(parents=True)
        for path, content in (files if files is not None else {word: word}).items():
            (base / path).parent.mkdir(parents=True, exist_ok=True)
            (base / path).mkdir() if content is None else (base / path).write_text(content)
        base.chmod(
            0o711
        )  # so it counts as listed by its tar; a root that is not belongs to 0:0, which takes root to make
        return digest

    def record(self, layer: Digest, replaced: Mapping[bytes, Entry] | None = None) -> None:
        """Writes the tree record of a layer as it stands, in raw notation; some entries may be replaced."""
        entries = {path: entry for path, entry in scan(self.layout.layerfs(layer)).items() if b".wh." not in path}
        entries |= replaced or {}
        record = make_record(layer, diff_id_of(layer), Notation.OCI, entries.values(), Markers(), ())
        self.write_record(layer, encode(record))

    def write_record(self, layer: Digest, content: bytes) -> None:
        """Any bytes as the record of a layer."""
        path = self.layout.tree_record(layer)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    def link_diff_id(self, layer: Digest) -> Digest:
        """Publishes the layer's diff id."""
        link = self.layout.diff_id_link(diff_id_of(layer))
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(diff_id_target(layer))
        return diff_id_of(layer)

    def stall_record(self, layer: Digest) -> int:
        """Makes every reader of the layer's record wait, as a dead network does, until the answered descriptor is
        closed: the kernel holds those back who open a file on which another holds a lease."""
        self.write_record(layer, b"")
        lease = os.open(self.layout.tree_record(layer), os.O_RDWR)
        fcntl.fcntl(lease, fcntl.F_SETSIG, signal.SIGURG)  # how the holder is told; by default this one is ignored
        fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        return lease


def diff_id_of(layer: Digest) -> Digest:
    """The diff id that stands for a layer made by hand."""
    return Digest.of(f"diff of {layer}".encode())


def pull(
    target: str, layer: Digest | str | None = None, diff_id: Digest | str | None = None, image: str = "a/b:c"
) -> dict[str, str]:
    """The labels of a Prepare during a pull."""
    given = {label.TARGET: target, label.IMAGE: image, label.LAYER_DIGEST: layer, label.DIFF_ID: diff_id}
    return {name: str(value) for name, value in given.items() if value is not None}


def lookup(verbs: Verbs, target: str, parent: str) -> list[str]:
    """Names that containerd's metadata store finds after a remote Prepare, by its own filter."""
    quoted = parent or '""'
    return [info.name for info in verbs.walk([f'labels."{label.TARGET}"=={target},parent=={quoted}'])]
