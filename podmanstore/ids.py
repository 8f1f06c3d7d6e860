"""Names in a store, all functions of what they name: the same on every node, and for ever.

A user's own layers keep the ids and link names of the layers below them in their files, so none of these may change.
Ids are 64 hex digits without an algorithm's name, as containers/image and containers/storage write them.
"""

import base64
import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache

LINK_LENGTH = 10
"""Characters of a link name: podman 4 hands overlayfs every path of a stack in one page."""

_LINK_BYTES = 10
"""More than a name has, and a whole number of characters."""

_PLAIN_KEY = re.compile(r"[a-z0-9.]+", re.ASCII)


@lru_cache(maxsize=1 << 16)
def layer_id(parent: str, diff_id: str) -> str:
    """The id that a pull gives a layer on its parent (empty for a base layer): containers/image's rule, which a pull
    looks a layer up by. It is not OCI's chain id."""
    return _sha256(f"{parent}+{diff_id}") if parent else diff_id


def chain_ids(diff_ids: Iterable[str]) -> list[str]:
    """The ids of a chain of layers, base first."""
    ids: list[str] = []
    for diff_id in diff_ids:
        ids.append(layer_id(ids[-1] if ids else "", diff_id))
    return ids


@lru_cache(maxsize=1 << 16)
def held_id(layer: str) -> str:
    """The id of a held layer by itself. No pull can ask for it."""
    return _sha256(f"cvmfs-podmanstore layer sha256:{layer}")


def shim_id(key: str) -> str:
    """The id of a shim that stands below a layer."""
    return _sha256(f"cvmfs-podmanstore shim {key}")


@lru_cache(maxsize=1 << 16)
def link_name(identity: str) -> str:
    """The short name of an entry in `overlay/l/`."""
    return base64.b32encode(hashlib.sha256(identity.encode()).digest()[:_LINK_BYTES])[:LINK_LENGTH].decode()


def big_data_name(key: str) -> str:
    """The file that containers/storage keeps an item of an image in."""
    return key if _PLAIN_KEY.fullmatch(key) else "=" + base64.b64encode(key.encode()).decode()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
