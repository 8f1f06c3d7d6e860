"""Held layers and images as a repository would give them, and a store read as containers/storage reads one."""

import base64
import hashlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cvmfsrepo.shims import Shim
from cvmfsrepo.tree import Entry
from podmanstore.values import HeldImage, HeldLayer

UID, GID = os.geteuid(), os.getegid()
CREATED = "2024-01-02T03:04:05.678Z"


def sha(text: str | bytes) -> str:
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def shim(*whiteouts: bytes, mode: int = 0o755) -> Shim:
    """A shim with devices at these paths."""
    above = {os.path.dirname(path) for path in whiteouts} - {b""}
    parents = {b"/".join(path.split(b"/")[:depth]) for path in above for depth in range(1, path.count(b"/") + 2)}
    directories = (Entry(path, stat.S_IFDIR | mode, UID, GID) for path in sorted({b"", *parents}))
    return Shim(tuple(directories), tuple(sorted(whiteouts)))


CATALOG = shim(b".cvmfscatalog")


def layer(name: str, root: Path | str = "/cvmfs/test/.layers", hide: Shim | None = CATALOG, **more: Any) -> HeldLayer:
    """A layer whose digests are functions of its name; below `root`, in a directory of that name."""
    values = {"size": 100 + len(name), "tar_size": 1000 + len(name), **more}
    return HeldLayer(sha(f"blob {name}"), sha(f"tar {name}"), f"{root}/{name}", hide=hide, **values)


def image(name: str, *layers: HeldLayer, config: str = "", created: str = CREATED, **more: Any) -> HeldImage:
    """An image whose config is told apart by a text; by default its name."""
    document = json.dumps({"about": config or name, "diff_ids": [held.diff_id for held in layers]}).encode()
    manifest = json.dumps({"config": sha(document), "layers": [held.layer for held in layers]}).encode()
    values: dict[str, Any] = {"manifest": manifest, "is_original": True, "config": document, **more}
    return HeldImage(names=(f"registry.test/{name}:1",), layers=tuple(layers), created=created, **values)


def chain(*layers: HeldLayer) -> list[str]:
    """Layer ids as containers/image computes them, base first."""
    ids: list[str] = []
    for held in layers:
        ids.append(sha(f"{ids[-1]}+{held.diff_id}") if ids else held.diff_id)
    return ids


def read_index(store: Path, name: str) -> list[dict[str, Any]]:
    path = store / f"overlay-{name}" / f"{name}.json"
    return list(json.loads(path.read_bytes())) if path.exists() else []


def stack(store: Path, identity: str) -> list[Path]:
    """The directories that a container on a layer stands on, topmost first, as podman 4 and 5.4 find them; it asserts
    that podman 5.8 finds the same."""
    overlay = store / "overlay"
    lower = overlay / identity / "lower"
    links = lower.read_text().split(":") if lower.exists() else []
    targets = [os.readlink(overlay / link) for link in links]
    by_links = [os.path.basename(os.path.dirname(target)) for target in targets]
    assert targets == [f"../{below}/diff" for below in by_links]
    layers = overlay / identity / "lower-layers"
    assert (layers.read_text().split(":") if layers.exists() else []) == by_links
    for each in (identity, *by_links):
        link = (overlay / each / "link").read_text()
        assert os.readlink(overlay / "l" / link) == f"../{each}/diff"
        assert os.path.lexists(overlay / each / "diff")
    return [overlay / identity / "diff", *(overlay / link for link in links)]


def read_store(store: Path) -> dict[str, list[str]]:
    """A store's images, as names -> layer ids, base first. It asserts that whatever is listed is there and whole."""
    images = read_index(store, "images")  # first, for a writer adds layers first
    layers = {record["id"]: record for record in read_index(store, "layers")}
    for identity in layers:
        stack(store, identity)
    found = {}
    for record in images:
        ids = [record["layer"]]
        while parent := layers[ids[-1]].get("parent"):
            ids.append(parent)
        for key, digest in record["big-data-digests"].items():
            plain = key == "manifest"
            content = (store / "overlay-images" / record["id"] / (key if plain else document(key))).read_bytes()
            if plain:  # may be the next one already, which its digest finds, too
                key = f"manifest-sha256:{sha(content)}"
                assert (store / "overlay-images" / record["id"] / document(key)).read_bytes() == content
            else:
                assert (f"sha256:{sha(content)}", len(content)) == (digest, record["big-data-sizes"][key])
        found[",".join(record.get("names", [record["id"]]))] = ids[::-1]
    assert sum(len(record.get("names", ())) for record in images) == len({n for r in images for n in r["names"]})
    return found


def document(key: str) -> str:
    """The file of an image's item whose key is not plain."""
    return "=" + base64.b64encode(key.encode()).decode()


def snapshot(directory: Path) -> Mapping[str, tuple[object, ...]]:
    """Every file of a store with what it holds and when it was changed."""
    found: dict[str, tuple[object, ...]] = {}
    for path, directories, files in os.walk(directory):
        for name in (*directories, *files):
            each = os.path.join(path, name)
            status = os.lstat(each)
            content: object = os.readlink(each) if stat.S_ISLNK(status.st_mode) else None
            if stat.S_ISREG(status.st_mode):
                content = Path(each).read_bytes()
            found[os.path.relpath(each, directory)] = (content, status.st_mode, status.st_ctime_ns, status.st_ino)
    return found


def contents(directory: Path) -> Mapping[str, tuple[object, ...]]:
    """As `snapshot`, without what differs from one disk to another."""
    return {path: values[:2] for path, values in snapshot(directory).items()}


def three_images(root: Path | str = "/cvmfs/test/.layers") -> Sequence[HeldImage]:
    """Images that share layers, also under different parents; with markers, a plain layer, and a layer twice."""
    base, three = layer("base", root), layer("three", root, None, tar_split="/cvmfs/test/three.tar-split.gz")
    two = layer("two", root, shim(b".cvmfscatalog", b"d/.wh.x"), white=shim(b"d/x"))
    return [
        image("plain", base, two, three),
        image("odd", base, three, two),
        image("twice", base, three, two, three, base),
    ]
