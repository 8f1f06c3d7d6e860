"""What a build remembers for the next one: `<store>/state.v1`, ours alone and never read by podman.

A SHA-256 of the rest, and a msgpack document in which layers that need the same shim share it. It only saves time: a
state that is lost, damaged or of another format counts as none, and everything is gathered anew.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from cvmfsrepo.shims import Shim
from podmanstore import disk
from podmanstore.reading import KeptImage
from podmanstore.values import HeldLayer, LeftOut, Mount

STATE = "state.v1"
FORMAT = 1
_DIGEST_LENGTH = 32


class State(msgspec.Struct, frozen=True):
    """The last build: what it was asked for (`request`, any text), what it found, and the `revisions` of the
    repositories in the order of the request, and their `identities`. `layers` are named by their hex digits; `outcome`
    is a hash of the images that it found, `listed` one of the indices that the store has then. `images` are those that
    need not be read again.
    """

    mount: Mount
    request: str
    revisions: tuple[int | None, ...]
    layers: dict[str, HeldLayer]
    left_out: tuple[LeftOut, ...] = ()
    outcome: str = ""
    listed: str = ""
    identities: tuple[tuple[str, str], ...] = ()
    images: dict[str, KeptImage] = {}


class _Document(msgspec.Struct, frozen=True):
    """The file's. `shims` are named by their keys; `around` has the keys of each layer's `hide` and `white`, or ""."""

    format: int
    state: State
    shims: dict[str, Shim]
    around: dict[str, tuple[str, str]]


_decode = msgspec.msgpack.Decoder(_Document).decode


def encode(state: State) -> bytes:
    """The same bytes for the same state, in whatever order its layers are."""
    keys: dict[int, str] = {}
    shims: dict[str, Shim] = {}

    def key(shim: Shim | None) -> str:
        if shim is None:
            return ""
        if id(shim) not in keys:
            keys[id(shim)] = shim.key.hex
            shims.setdefault(keys[id(shim)], shim)
        return keys[id(shim)]

    around = {name: (key(layer.hide), key(layer.white)) for name, layer in state.layers.items()}
    bare = {name: msgspec.structs.replace(layer, hide=None, white=None) for name, layer in state.layers.items()}
    document = _Document(FORMAT, msgspec.structs.replace(state, layers=bare), shims, around)
    content = msgspec.msgpack.encode(document, order="deterministic")
    return hashlib.sha256(content).digest() + content


def decode(content: bytes) -> State | None:
    """None for anything that `encode` did not write."""
    digest, document = content[:_DIGEST_LENGTH], content[_DIGEST_LENGTH:]
    if hashlib.sha256(document).digest() != digest:
        return None
    try:
        read = _decode(document)
        if read.format != FORMAT:
            return None
        layers = {name: _shimmed(layer, *read.around[name], read.shims) for name, layer in read.state.layers.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError):
        return None
    return msgspec.structs.replace(read.state, layers=layers)


def find_state(path: Path) -> State | None:
    """The state of a store's last build, if it is known."""
    try:
        return decode(path.read_bytes())
    except FileNotFoundError:
        return None


def keep_state(file: Path, state: State) -> bool:
    """Keeps a state; answers whether it was another one. Callers hold `lockfiles.building`."""
    content, path = encode(state), str(file)
    if disk.has_content(path, content):
        return False
    with disk.explained(file.parent):
        disk.remove_tree(f"{path}-new")
        disk.replace_file(path, content, f"{path}-new")
    return True


def _shimmed(layer: HeldLayer, hide: str, white: str, shims: Mapping[str, Shim]) -> HeldLayer:
    around = {"hide": shims[hide] if hide else None, "white": shims[white] if white else None}
    return msgspec.structs.replace(layer, **around)
