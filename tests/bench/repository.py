"""A repository for measuring: many small layers in a plain directory, laid out as published ones are."""

from pathlib import Path

from cvmfsrepo.compare import scan
from cvmfsrepo.digest import Digest
from cvmfsrepo.layout import CATALOG_MARKER, Layout
from cvmfsrepo.tree import Notation, encode, make_record
from cvmfsrepo.whiteouts import Markers

_CATALOG = CATALOG_MARKER.encode()
_MARKERS = Markers(whiteouts=(b"etc/gone",), opaques=(b"var/cache",))


def write_layers(root: Path, count: int) -> list[str]:
    """Writes `count` layers with their tree records; answers their digests (hex)."""
    layout = Layout(root)
    digests = [Digest.of(f"layer {number}".encode()) for number in range(count)]
    for digest in digests:
        _write_layer(layout, digest)
    return [digest.hex for digest in digests]


def _write_layer(layout: Layout, digest: Digest) -> None:
    """A few files and directories, and deletions left raw: a shim above the layer and one below it."""
    tree = layout.layerfs(digest)
    for directory in ("etc", "usr/bin", "var/cache"):
        (tree / directory).mkdir(parents=True)
    for name in ("etc/passwd", "usr/bin/tool", "var/cache/index"):
        (tree / name).write_text(digest.hex)
    entries = scan(tree).values()
    for marker in (CATALOG_MARKER, "etc/.wh.gone", "var/cache/.wh..wh..opq"):
        (tree / marker).touch()
    record = make_record(digest, Digest.of(digest.hex.encode()), Notation.OCI, entries, _MARKERS, [_CATALOG])
    layout.layer_metadata(digest).mkdir()
    layout.tree_record(digest).write_bytes(encode(record))
