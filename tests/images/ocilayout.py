"""OCI layout directories made from layer tars, with every digest right.

Several images may live in one layout, as `skopeo` and `buildah` leave them: writing one more adds to
`index.json` and replaces the image of the same reference. Equal input gives equal bytes, so digests can be
compared between runs.
"""

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import zstandard

Compression = Literal["gzip", "zstd", "none"]
MediaTypes = Literal["oci", "docker"]

REF_NAME: Final = "org.opencontainers.image.ref.name"
CREATED: Final = "2024-01-01T00:00:00Z"

_OCI: Final = "application/vnd.oci.image"
_DOCKER: Final = "application/vnd.docker"
_LAYER_TYPE: Final[Mapping[tuple[MediaTypes, Compression], str]] = {
    ("oci", "none"): f"{_OCI}.layer.v1.tar",
    ("oci", "gzip"): f"{_OCI}.layer.v1.tar+gzip",
    ("oci", "zstd"): f"{_OCI}.layer.v1.tar+zstd",
    ("docker", "none"): f"{_DOCKER}.image.rootfs.diff.tar",
    ("docker", "gzip"): f"{_DOCKER}.image.rootfs.diff.tar.gzip",
    ("docker", "zstd"): f"{_DOCKER}.image.rootfs.diff.tar.zstd",
}
_MANIFEST_TYPE: Final[Mapping[MediaTypes, str]] = {
    "oci": f"{_OCI}.manifest.v1+json",
    "docker": f"{_DOCKER}.distribution.manifest.v2+json",
}
_CONFIG_TYPE: Final[Mapping[MediaTypes, str]] = {
    "oci": f"{_OCI}.config.v1+json",
    "docker": f"{_DOCKER}.container.image.v1+json",
}


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a layout; digests are `sha256:<hex>`, layers from the base upwards."""

    path: Path
    ref: str
    manifest: str
    config: str
    layers: tuple[str, ...]
    diff_ids: tuple[str, ...]

    @property
    def source(self) -> str:
        """As skopeo and our own publisher take it."""
        return f"oci:{self.path}:{self.ref}"

    def blob(self, digest: str) -> Path:
        return blob_path(self.path, digest)


def blob_path(layout: Path, digest: str) -> Path:
    return layout / "blobs" / "sha256" / digest.removeprefix("sha256:")


def write_image(
    path: Path,
    layers: Sequence[bytes],
    ref: str,
    compression: Compression | Sequence[Compression] = "gzip",
    *,
    media_types: MediaTypes = "oci",
    config: Mapping[str, Any] | None = None,
    architecture: str = "amd64",
) -> Image:
    """Add the image `ref` to the layout at `path`, which is made when missing.

    `layers` are uncompressed tars from the base upwards; `compression` is one for all or one for each;
    `config` is merged into the image config's `config` object (`Cmd`, `Env`, …). Docker's media types are read
    from a layout by containerd; skopeo reads only OCI's there.
    """
    kinds: Sequence[Compression] = [compression] * len(layers) if isinstance(compression, str) else compression
    if len(kinds) != len(layers):
        raise ValueError(f"compression {kinds!r}: {len(layers)} layers need as many; give one for each, or one name")
    diff_ids = tuple(_digest(layer) for layer in layers)
    blobs = [compress(layer, kind) for layer, kind in zip(layers, kinds, strict=True)]
    body = _config_bytes(diff_ids, config or {}, architecture)
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST_TYPE[media_types],
            "config": _descriptor(_CONFIG_TYPE[media_types], body),
            "layers": [
                _descriptor(_LAYER_TYPE[media_types, kind], blob) for kind, blob in zip(kinds, blobs, strict=True)
            ],
        }
    )
    for blob in (*blobs, body, manifest):
        _write_blob(path, blob)
    _add_to_index(path, _descriptor(_MANIFEST_TYPE[media_types], manifest), ref, architecture)
    return Image(path, ref, _digest(manifest), _digest(body), tuple(map(_digest, blobs)), diff_ids)


def read_image(path: Path, ref: str) -> Image:
    """An image that some tool left in a layout: the one named `ref` in its index."""
    for entry in json.loads((path / "index.json").read_bytes())["manifests"]:
        if entry.get("annotations", {}).get(REF_NAME) == ref:
            manifest = json.loads(blob_path(path, entry["digest"]).read_bytes())
            body = json.loads(blob_path(path, manifest["config"]["digest"]).read_bytes())
            layers = tuple(layer["digest"] for layer in manifest["layers"])
            return Image(
                path,
                ref,
                entry["digest"],
                manifest["config"]["digest"],
                layers,
                tuple(body["rootfs"]["diff_ids"]),
            )
    raise LookupError(f"image {ref!r}: not in the layout {str(path)!r}; look at its index.json for what is")


def read_layers(image: Image) -> list[bytes]:
    """The uncompressed tars, from the base upwards, each checked against its diff id."""
    tars = []
    for digest, diff_id in zip(image.layers, image.diff_ids, strict=True):
        tar = decompress(image.blob(digest).read_bytes())
        if _digest(tar) != diff_id:
            raise ValueError(f"layer {digest!r}: its tar is not {diff_id!r}; the layout is broken, make it again")
        tars.append(tar)
    return tars


def compress(tar: bytes, compression: Compression) -> bytes:
    match compression:
        case "gzip":
            return gzip.compress(tar, compresslevel=6, mtime=0)
        case "zstd":
            return zstandard.ZstdCompressor(level=3).compress(tar)
        case "none":
            return tar


def decompress(blob: bytes) -> bytes:
    """By the magic number, for media types are not always true."""
    if blob.startswith(b"\x1f\x8b"):
        return gzip.decompress(blob)
    if blob.startswith(b"\x28\xb5\x2f\xfd"):
        return zstandard.ZstdDecompressor().decompressobj().decompress(blob)
    return blob


def _config_bytes(diff_ids: Sequence[str], config: Mapping[str, Any], architecture: str) -> bytes:
    environment: dict[str, Any] = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
    return _json(
        {
            "created": CREATED,
            "architecture": architecture,
            "os": "linux",
            "config": environment | dict(config),
            "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
            "history": [
                {"created": CREATED, "created_by": f"layer {number}"} for number in range(1, len(diff_ids) + 1)
            ],
        }
    )


def _add_to_index(path: Path, descriptor: dict[str, Any], ref: str, architecture: str) -> None:
    (path / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
    index_path = path / "index.json"
    index: dict[str, Any] = {"schemaVersion": 2, "mediaType": f"{_OCI}.index.v1+json", "manifests": []}
    if index_path.exists():
        index = json.loads(index_path.read_bytes())
    entry = {
        **descriptor,
        "annotations": {REF_NAME: ref},
        "platform": {"architecture": architecture, "os": "linux"},
    }
    others = [item for item in index["manifests"] if item.get("annotations", {}).get(REF_NAME) != ref]
    index["manifests"] = [*others, entry]
    index_path.write_bytes(_json(index))


def _write_blob(path: Path, blob: bytes) -> None:
    target = blob_path(path, _digest(blob))
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        target.write_bytes(blob)


def _descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
