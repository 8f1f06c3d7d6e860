"""Stores made by hand, as containers/storage wants them, for tests that break them.

Everything is spelled out here once more, and nothing is taken from podmanstore: what reads a store and what writes one
are both held against this.
"""

import base64
import hashlib
import json
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CREATED = "2024-01-02T03:04:05Z"


@dataclass(frozen=True, slots=True)
class HandLayer:
    """A layer in the repository: hex digits of its blob and of its tar, and where it is unpacked."""

    blob: str
    diff_id: str
    target: Path

    @property
    def source_id(self) -> str:
        """Name of the entry that holds it by itself."""
        return sha(f"cvmfs-podmanstore layer sha256:{self.blob}")


@dataclass(slots=True)
class Handmade:
    """A store at `store` on layers of `repository`; files are there after `write`."""

    root: Path
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    images: list[dict[str, Any]] = field(default_factory=list)
    stacks: dict[str, list[str]] = field(default_factory=dict)

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def repository(self) -> Path:
        return self.root / "repository"

    def layer(self, name: str, files: Sequence[str] = ("file",)) -> HandLayer:
        """Unpacks a layer that holds `files`, and is told from others by its name."""
        blob = sha(f"blob {name}")
        target = self.repository / ".layers" / blob[:2] / blob / "layerfs"
        target.mkdir(parents=True, exist_ok=True)
        for file in files:
            (target / file).touch()
        return HandLayer(blob, sha(f"tar {name}"), target)

    def chain(self, layers: Sequence[HandLayer], hide: Sequence[str] = ()) -> str:
        """Entries for an image's layers, base first; the id of the top one. With names to hide, each stands below a
        directory that hides them."""
        parent = ""
        for layer in layers:
            name = sha(f"{parent}+{layer.diff_id}") if parent else layer.diff_id
            if name not in self.layers:
                self.layers[name] = record_of(layer, name, parent)
                below = [parent, *self.stacks[parent]] if parent else []
                if hide:
                    self._shimmed(layer, name, hide, below)
                else:
                    self.entry(name, below, layer.target)
            parent = name
        return parent

    def entry(self, name: str, below: Sequence[str], target: Path | None = None, hide: Sequence[str] = ()) -> None:
        """A directory of `overlay/`: `diff` leads to the target or is a directory with devices that hide names."""
        directory, link = self.store / "overlay" / name, link_of(name)
        directory.mkdir(parents=True)
        (self.store / "overlay/l").mkdir(exist_ok=True)
        if target:
            (directory / "diff").symlink_to(target)
        else:
            (directory / "diff").mkdir()
            for file in hide:
                os.mknod(directory / "diff" / file, stat.S_IFCHR, 0)
        (directory / "link").write_text(link)
        (self.store / "overlay/l" / link).symlink_to(f"../{name}/diff")
        if below:
            (directory / "lower").write_text(":".join(f"l/{link_of(other)}" for other in below))
            (directory / "lower-layers").write_text(":".join(below))
        self.stacks[name] = list(below)

    def image(self, name: str, layers: Sequence[HandLayer], hide: Sequence[str] = (), config: bytes = b"") -> str:
        """An image with its config, or one that is given, and its manifest; its id."""
        config = config or config_of(name, layers)
        digest = f"sha256:{sha(config)}"
        manifest = manifest_of(config, layers)
        own = f"sha256:{sha(manifest)}"
        items = {"manifest": manifest, f"manifest-{own}": manifest, digest: config}
        directory = self.store / "overlay-images" / sha(config)
        directory.mkdir(parents=True)
        for key, content in items.items():
            (directory / file_name(key)).write_bytes(content)
        self.images.append(
            {
                "id": sha(config),
                "digest": own,
                "names": [name],
                "layer": self.chain(layers, hide),
                "created": CREATED,
                "big-data-names": list(items),
                "big-data-sizes": {key: len(content) for key, content in items.items()},
                "big-data-digests": {key: f"sha256:{sha(content)}" for key, content in items.items()},
            }
        )
        return sha(config)

    def write(self) -> "Handmade":
        """The indices and their locks."""
        for kind, records in (("layers", list(self.layers.values())), ("images", self.images)):
            directory = self.store / f"overlay-{kind}"
            directory.mkdir(parents=True, exist_ok=True)
            (directory / f"{kind}.json").write_bytes(encode(records))
            (directory / f"{kind}.lock").write_bytes(hashlib.sha512(encode(records)).digest())
        (self.store / "overlay/l").mkdir(parents=True, exist_ok=True)
        for directory in (self.store, *self.store.rglob("*")):
            if not directory.is_symlink() and not stat.S_ISCHR(directory.stat().st_mode):
                directory.chmod(0o755 if directory.is_dir() else 0o644)
        return self

    def edit(self, kind: str, change: Callable[[list[dict[str, Any]]], object]) -> None:
        """Changes the records of `layers` or `images` as they stand in the store."""
        path = self.store / f"overlay-{kind}" / f"{kind}.json"
        records = json.loads(path.read_bytes())
        change(records)
        path.write_bytes(encode(records))

    def path_of(self, name: str, file: str) -> Path:
        """A file of an entry."""
        return self.store / "overlay" / name / file

    def _shimmed(self, layer: HandLayer, name: str, hide: Sequence[str], below: Sequence[str]) -> None:
        if layer.source_id not in self.layers:
            self.layers[layer.source_id] = record_of(layer, layer.source_id, "")
            self.entry(layer.source_id, [], layer.target)
        self.entry(name, [layer.source_id, *below], None, hide)


def simple(root: Path, layers: int = 3, hide: Sequence[str] = ()) -> Handmade:
    """A store with one image, docker.io/library/simple:1."""
    made = Handmade(root)
    made.image("docker.io/library/simple:1", [made.layer(str(n), ["file", *hide]) for n in range(layers)], hide)
    return made.write()


def config_of(name: str, layers: Sequence[HandLayer]) -> bytes:
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}" for layer in layers]}
    return encode({"architecture": "amd64", "os": "linux", "rootfs": rootfs, "config": {"Labels": {"for": name}}})


def manifest_of(config: bytes, layers: Sequence[HandLayer]) -> bytes:
    kind = "application/vnd.oci.image"
    blobs = [
        {"mediaType": f"{kind}.layer.v1.tar+gzip", "digest": f"sha256:{layer.blob}", "size": 100} for layer in layers
    ]
    described = {"mediaType": f"{kind}.config.v1+json", "digest": f"sha256:{sha(config)}", "size": len(config)}
    return encode({"schemaVersion": 2, "mediaType": f"{kind}.manifest.v1+json", "config": described, "layers": blobs})


def record_of(layer: HandLayer, name: str, parent: str) -> dict[str, Any]:
    """A layer's record in layers.json."""
    record = {
        "id": name,
        "created": CREATED,
        "compressed-diff-digest": f"sha256:{layer.blob}",
        "compressed-size": 100,
        "diff-digest": f"sha256:{layer.diff_id}",
        "diff-size": 2048,
        "compression": 2,
    }
    return record | {"parent": parent} if parent else record


def link_of(name: str) -> str:
    return base64.b32encode(hashlib.sha256(name.encode()).digest()).decode()[:10]


def file_name(key: str) -> str:
    """containers/storage's name for the file of a big data item; good for the keys that podman writes."""
    return key if key == "manifest" else "=" + base64.b64encode(key.encode()).decode()


def encode(value: object) -> bytes:
    return json.dumps(value).encode()


def sha(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
