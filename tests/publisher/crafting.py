"""OCI layouts whose blobs were made by hand, and may not be what their descriptors promise."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.images.ocilayout import Image

OCI = "application/vnd.oci.image"


@dataclass(frozen=True, slots=True)
class Blob:
    """A layer: `content` is what stands in the layout, `tar` what the config promises; the descriptor's digest and
    size are those of `promised`, or else of the content."""

    content: bytes
    tar: bytes
    promised: bytes | None = None
    mediatype: str = f"{OCI}.layer.v1.tar+gzip"


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def craft_image(directory: Path, *layers: Blob, ref: str = "registry.example/group/image:1", **manifest: Any) -> Image:
    """A layout of one image; `manifest` overrides fields of its manifest."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    promised = [layer.content if layer.promised is None else layer.promised for layer in layers]
    for layer, promise in zip(layers, promised, strict=True):
        (blobs / digest(promise).removeprefix("sha256:")).write_bytes(layer.content)
    diff_ids = [digest(layer.tar) for layer in layers]
    rootfs = {"type": "layers", "diff_ids": diff_ids}
    config = _document(blobs, {"architecture": "amd64", "os": "linux", "rootfs": rootfs})
    entries = [
        {"mediaType": layer.mediatype, "digest": digest(promise), "size": len(promise)}
        for layer, promise in zip(layers, promised, strict=True)
    ]
    document = {"schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json", "config": config, "layers": entries}
    described = _document(blobs, document | manifest)
    entry = {**described, "annotations": {"org.opencontainers.image.ref.name": ref}}
    index = {"schemaVersion": 2, "manifests": [entry]}
    (directory / "index.json").write_text(json.dumps(index))
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    layers_digests = tuple(str(entry["digest"]) for entry in entries)
    return Image(directory, ref, str(described["digest"]), str(config["digest"]), layers_digests, tuple(diff_ids))


def _document(blobs: Path, document: dict[str, Any]) -> dict[str, object]:
    content = json.dumps(document).encode()
    (blobs / digest(content).removeprefix("sha256:")).write_bytes(content)
    kind = f"{OCI}.config.v1+json" if "rootfs" in document else f"{OCI}.manifest.v1+json"
    return {"mediaType": kind, "digest": digest(content), "size": len(content)}
