"""What parses input that others wrote: each with valid input to start from, and the errors that it may answer with.

One function a target takes bytes, whatever they are; what it raises beyond `_ALLOWED` is a bug. Both hypothesis
(test_parsers.py) and a coverage-guided fuzzer (guided.py) call them.
"""

import contextlib
import io
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import zstandard

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss, InvalidArgument, PermissionDenied
from cvmfsrepo.layout import diff_id_target, layer_of_target
from cvmfsrepo.oci import (
    Platform,
    Reference,
    choose_manifest,
    is_index,
    parse_config,
    parse_index,
    parse_manifest,
)  # fmt: skip
from cvmfsrepo.outline import Outline, Source, outline_of
from cvmfsrepo.repository import Missing
from cvmfsrepo.shims import hide_shim, white_shim
from cvmfsrepo.tree import Entry, Notation, decode, decode_head, encode, make_record
from cvmfsrepo.whiteouts import Markers
from publisher.listening.webhooks import Allowed, parse_webhook
from publisher.registry import settings as registries
from publisher.registry.patience import asked_for
from publisher.registry.tokens import Token, parse_challenge
from snapshotter import labels as label
from snapshotter.config import parse as parse_settings
from snapshotter.filters import parse_filters
from snapshotter.labels import Wanted, wanted_layer
from snapshotter.patterns import compile_pattern
from snapshotter.shimstore import ShimStore
from snapshotter.snapshots import Info, Kind
from tests.publisher.listening.bodies import cloud_event, envelope, event, harbor

_ALLOWED = (InvalidArgument, DataLoss)

LAYER, DIFF_ID = Digest.of(b"layer"), Digest.of(b"diff id")
_HEX = str(LAYER)
_INFO = Info(Kind.ACTIVE, "k8s.io/1/a", "sha256:b", 1, 1, {"a": "a" * 1000, "d.e/f": 'ü "', label.TARGET: _HEX})
_LABELS = (label.TARGET, label.LAYER_DIGEST, label.DIFF_ID, label.IMAGE)


@dataclass(frozen=True, slots=True)
class Target:
    """One parser, called with any bytes, and inputs that it takes; `deepest` is how often something is repeated to
    show that depth and length do not hurt."""

    parse: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    deepest: int = 100_000

    def run(self, content: bytes) -> None:
        """Raises what the parser must not."""
        with contextlib.suppress(*_ALLOWED):
            self.parse(content)


def _text(content: bytes) -> str:
    """What arrives as text: gRPC takes nothing but UTF-8."""
    return content.decode(errors="replace")


def _labels(content: bytes) -> None:
    """Never an error: a Prepare that cannot be served from a repository is still one."""
    given = dict(zip(_LABELS, _text(content).split("\n"), strict=False))
    wanted = wanted_layer(given)
    assert wanted is None or isinstance(wanted, Wanted | Missing)
    assert (wanted is None) == (not given.get(label.TARGET))


def _filters(content: bytes) -> None:
    for text in _text(content).split("\n"):
        found = parse_filters([text])
        found.equalities()
        found.matches(_INFO)


def _pattern(content: bytes) -> None:
    compile_pattern(_text(content)).search("a" * 500 + "b" + "a" * 500)


def _index(content: bytes) -> None:
    index = parse_index(content)
    assert is_index(content)
    assert choose_manifest(index, Platform("linux", "amd64")) in index.manifests


def _manifest(content: bytes) -> None:
    manifest = parse_manifest(content)
    assert [manifest.config.digest, *(layer.digest for layer in manifest.layers)]


def _record(content: bytes) -> None:
    """A node reads the head alone; other commands all."""
    head = decode_head(io.BytesIO(content), "record")
    try:
        _shims(outline_of(head))
    finally:
        decode(content, "record")


def _unpacked_record(content: bytes) -> None:
    """The same, where the fuzzer's bytes are what the frames hold: most changes to a frame only break its checksum."""
    _record(packed(content))


def packed(content: bytes) -> bytes:
    """A record whose two frames hold what stands before and behind a mark."""
    head, _, entries = content.partition(_FRAMES)
    compress = zstandard.ZstdCompressor().compress
    return compress(head) + compress(entries)


def _outline(content: bytes) -> None:
    """One that the node kept; one that does not parse counts as none."""
    with tempfile.TemporaryDirectory(prefix="outline-") as root:
        store = ShimStore(Path(root))
        store.layers.mkdir()
        (store.layers / f"{LAYER.hex}.v1").write_bytes(content)
        if outline := store.find_outline(LAYER):
            _shims(outline)


def _shims(outline: Outline) -> None:
    hide_shim(outline, lambda path: None)
    white_shim(outline)


def _reference(content: bytes) -> None:
    reference = Reference.parse(_text(content))
    assert Reference.parse(str(reference)) == reference
    assert ".." not in str(reference).split("/")


def _webhook(content: bytes) -> None:
    """Whatever is posted, only what is allowed comes of it."""
    with contextlib.suppress(PermissionDenied):
        notice = parse_webhook(content, _ALLOWED_IMAGES, 1.8e9)
        assert all(_ALLOWED_IMAGES.wants(push.reference) and push.at <= 1.8e9 for push in notice.pushes)


def _link(content: bytes) -> None:
    text = _text(content)
    assert diff_id_target(layer_of_target(text)) == text


def _challenge(content: bytes) -> None:
    """Headers come as Latin-1."""
    found = parse_challenge(content.decode("latin-1"))
    assert found is None or found.realm


def _token(content: bytes) -> None:
    """What is shown in a header is one line."""
    found = Token.parse(content)
    assert found is None or (found.text.isascii() and found.text.isprintable())


def _retry_after(content: bytes) -> None:
    asked = asked_for(content.decode("latin-1"))
    assert asked is None or 0 <= asked <= 3600


def _entries() -> list[Entry]:
    root, etc = Entry(b"", 0o40755), Entry(b"etc", 0o40755, 1, 2, 3, xattrs={"user.a": b"1"})
    return [root, etc, Entry(b"etc/a", 0o100644, size=3, group=1), Entry(b"etc/l", 0o120777, target=b"../x")]


def _records() -> list[bytes]:
    markers = Markers((b"etc/gone", b"tmp/x"), (b"etc",))
    entries = [*_entries(), Entry(b"tmp", 0o40755, implied=True)]
    return [
        encode(make_record(LAYER, DIFF_ID, notation, entries, markers, (b".cvmfscatalog",))) for notation in Notation
    ]


def _unpacked(record: bytes) -> bytes:
    head = zstandard.ZstdDecompressor().decompressobj()
    first = head.decompress(record)
    return first + _FRAMES + zstandard.ZstdDecompressor().decompress(head.unused_data)


_ALLOWED_IMAGES = Allowed.parse(["https://registry.example.org/*"])
_FRAMES = b"\0frame\0"
_DESCRIPTOR: Mapping[str, object] = {"digest": _HEX, "size": 1, "mediaType": "a/b", "annotations": {"A": "b"}}
_MANIFEST = {"schemaVersion": 2, "config": _DESCRIPTOR, "layers": [_DESCRIPTOR, _DESCRIPTOR]}
_CAPITALISED = re.sub(rb'"([a-z])(\w*":)', lambda key: b'"' + key[1].upper() + key[2], json.dumps(_MANIFEST).encode())
_PLATFORM = {"os": "linux", "architecture": "amd64", "variant": "v8"}
_OUTLINE = Outline(Source.WALK, (b"etc/gone",), (b"dev/x",), (b"etc",), (b"etc/.wh.gone",), tuple(_entries()[:2]))
_SETTINGS = b"""root = "/a"
address = "/run/s.sock"
log-level = "debug"
repository = "unpacked.example.org"
absolute-mountpoint = "/cvmfs/x"
deadline = 2.5
mount-options = ["volatile"]
"""

_REGISTRIES = b"""[registries."docker.io"]
mirrors = ["harbor.example.org:5000/hub"]
proxy = "http://proxy.example.org:3128"
plain-http = false
requests-per-second = 2.5
"""
_CHALLENGE = b'Bearer realm="https://auth.example.org/token",service="registry",scope="repository:a/b:pull"'

TARGETS: Mapping[str, Target] = {
    "labels": Target(_labels, (f"t\n{_HEX}\n{_HEX}\na/b:c".encode(), b"t\n\nx", b"")),
    "filters": Target(
        _filters,
        (b'labels."containerd.io/snapshot.ref"==sha256:ab,parent==""', b'name~=/^a+(b|c)?$/,kind!=view\n"a\\x41".b'),
    ),
    "patterns": Target(_pattern, (rb"^(?:a|b)[^\]a-c]{2,5}$", rb"(?i)\bk8s\.io/\d+")),
    "reference": Target(_reference, (b"registry.example.org:5000/a/b-c:1.0", f"a@{_HEX}".encode(), b"[::1]:5000/a")),
    "digest": Target(lambda content: Digest.parse(_text(content)), (_HEX.encode(),)),
    "manifest": Target(_manifest, (json.dumps(_MANIFEST).encode(), _CAPITALISED)),
    "index": Target(_index, (json.dumps({"manifests": [{**_DESCRIPTOR, "platform": _PLATFORM}]}).encode(),)),
    "config": Target(
        lambda content: parse_config(content).rootfs.diff_ids,
        (json.dumps({**_PLATFORM, "rootfs": {"type": "layers", "diff_ids": [_HEX]}, "created": "x"}).encode(),),
    ),
    "record": Target(_record, tuple(_records())),
    "unpacked record": Target(_unpacked_record, tuple(map(_unpacked, _records()))),
    "outline": Target(_outline, (msgspec.msgpack.encode(_OUTLINE),)),
    "diff id link": Target(_link, (diff_id_target(LAYER).encode(),)),
    "webhook": Target(
        _webhook,
        (
            harbor("registry.example.org/a/b:1"),
            cloud_event("registry.example.org/a/b:1", "2026-11-29T00:00:00.5Z"),
            envelope(event("registry.example.org", "a/b", "1"), event("registry.example.org", "a/b")),
        ),
    ),
    # Its reader takes quadratic time for a long dotted key; the file is the operator's own.
    "settings": Target(lambda content: parse_settings(content, Path("config.toml")), (_SETTINGS,), deepest=2000),
    "registries": Target(
        lambda content: registries.parse_settings(content, Path("publisher.toml")), (_REGISTRIES,), deepest=2000
    ),
    "challenge": Target(_challenge, (_CHALLENGE, b'Basic realm="a", bearer realm = "b"')),
    "token": Target(_token, (b'{"token": "a.b.c", "expires_in": 300}', b'{"access_token": "a"}')),
    "retry-after": Target(_retry_after, (b"120", b"Wed, 21 Oct 2026 07:28:00 GMT")),
}
