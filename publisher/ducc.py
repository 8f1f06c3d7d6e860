"""The documents that DUCC keeps in a repository, read as they are found and written as it writes them."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss


def manifest_json(manifest: bytes) -> bytes:
    """The manifest as DUCC writes it: Go's names of the fields, in one line."""
    document = {key.lower(): value for key, value in json.loads(manifest).items()}
    written = {
        "SchemaVersion": document.get("schemaversion", 2),
        "MediaType": document.get("mediatype", ""),
        "Config": _ducc_descriptor(document["config"]),
        "Layers": [_ducc_descriptor(layer) for layer in document["layers"]],
    }
    return json.dumps(written, separators=(",", ":"), ensure_ascii=False).encode()


def _ducc_descriptor(descriptor: dict[str, Any]) -> dict[str, Any]:
    lowered = {key.lower(): value for key, value in descriptor.items()}
    return {"MediaType": lowered.get("mediatype", ""), "Size": lowered["size"], "Digest": lowered["digest"]}


def read_origins(path: Path) -> list[str]:
    """The config digests of the images that brought a layer, from its `origin.json`; none where there is none."""
    try:
        origins = json.loads(path.read_bytes())["origin"]
        if not all(isinstance(origin, str) for origin in origins):
            raise TypeError("an origin that is no text")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (ValueError, KeyError, TypeError) as error:
        remedy = "mend or remove it: it tells which images use the layer"
        raise DataLoss("origin list", str(path), f"does not parse: {error!r}", remedy) from None
    return list(origins)


def origin_json(origins: list[str]) -> bytes:
    return json.dumps({"origin": origins}, separators=(",", ":")).encode()


def layers_json(layer: Digest, diff_id: Digest, tar_size: int) -> bytes:
    """What a layer unpacks to; `tar_size` in bytes."""
    entry = {
        "id": diff_id.hex,
        "created": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "compressed-diff-digest": str(layer),
        "diff-digest": str(diff_id),
        "diff-size": tar_size,
    }
    return json.dumps([entry], separators=(",", ":")).encode()
