"""The records of images.json, and the config and manifests that stand beside it.

Facts of containers/storage: an image's id is its config's digest; `manifest` and the config are required; whatever is
listed as big data has a file, a size and a digest; an item whose name begins with "manifest" finds its image by digest.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from podmanstore.checking.defects import Findings, Kind, named, said
from podmanstore.checking.indices import Fields, Image, Layer, is_digest, parse_json
from podmanstore.checking.layers import chain_ids, chain_of

_PLAIN_KEY = re.compile(r"[a-z0-9.]*.", re.ASCII | re.DOTALL)  # the last character is not looked at
_PART = r"[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*"
_NAME = re.compile(
    r"(?P<registry>localhost(:\d+)?|[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+(:\d+)?|[A-Za-z0-9-]+:\d+|\[[0-9a-fA-F:]+\](:\d+)?)"
    rf"/(?P<path>{_PART}(/{_PART})*)"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}|@sha256:[0-9a-f]{64})",
    re.ASCII,
)
_CONFIG_TYPES = frozenset(
    {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}
)
_HUBS = frozenset({"registry.hub.docker.com", "hub.docker.com", "index.docker.io", "registry-1.docker.io"})


@dataclass(frozen=True, slots=True)
class Content:
    """An image's files that could be read, by big data name; `unread` are those in a repository that did not answer."""

    items: Mapping[str, bytes]
    unread: frozenset[str]


def data_names(image: Image) -> list[str]:
    """What an image must have, and what it says to have; each once."""
    return list(dict.fromkeys(["manifest", config_name(image), *image.items]))


def data_path(store: Path, image: Image, name: str) -> str | None:
    """Where containers/storage keeps an item; None where no file can have such a name."""
    encoded = name if not name or _PLAIN_KEY.fullmatch(name) else "=" + base64.b64encode(name.encode()).decode()
    possible = encoded.strip(".") and "/" not in encoded and "\0" not in encoded and len(encoded) < 256
    return f"{store}/overlay-images/{image.id}/{encoded}" if possible else None


def config_name(image: Image) -> str:
    return f"sha256:{image.id}"


def check_names(images: Sequence[Image], findings: Findings) -> None:
    """A name belongs to one image, and is spelled as podman spells what it looks for."""
    owners = dict[str, Image]()
    for image in images:
        for name in image.names:
            if (owner := owners.setdefault(name, image)) is not image:
                problem = f"is given to {owner.id[:12]} and to {image.id[:12]}: every podman command fails"
                findings.add(Kind.NAME_TWICE, named("name", name), problem)
            if problem := _name_problem(name):
                findings.add(Kind.NAME_NOT_NORMALISED, named("name", name), problem)


def check_image(image: Image, content: Content, layers: Mapping[str, Layer], findings: Findings) -> None:
    """A record against its files and its layers."""
    _check_tables(image, content, findings)
    _check_digests(image, content, findings)
    config = _check_config(image, content, findings)
    _check_manifest(image, content, findings)
    _check_chain(image, config, layers, findings)


def _name_problem(name: str) -> str:
    match = _NAME.fullmatch(name)
    if match is None:
        return "is not REGISTRY/PATH:TAG in full: podman finds the image by no name"
    if match["registry"] in _HUBS:
        return f"podman calls {match['registry']} docker.io: the image is not found by its usual name"
    if match["registry"] == "docker.io" and "/" not in match["path"]:
        return f"podman looks for docker.io/library/{match['path']}: the image is not found by its usual name"
    return ""


def _check_tables(image: Image, content: Content, findings: Findings) -> None:
    for name in ("manifest", config_name(image)):
        if name not in content.items and name not in content.unread and name not in image.items:
            findings.add(Kind.BIG_DATA_MISSING, image.where, f"has no file for {said(name)}: `podman images` fails")
        elif name not in image.items:
            problem = f"does not list its {said(name)}: its size is unknown, and it is not found by digest"
            findings.add(Kind.BIG_DATA_UNLISTED, image.where, problem)
    for name in image.items:
        _check_item(image, name, content, findings)
    for name in sorted({*image.sizes, *image.digests} - {*image.items}):
        problem = f"has a size or a digest of {said(name)}, which it does not list"
        findings.add(Kind.BIG_DATA_INCOMPLETE, image.where, problem)


def _check_item(image: Image, name: str, content: Content, findings: Findings) -> None:
    missing = [table for table, of in (("size", image.sizes), ("digest", image.digests)) if name not in of]
    if missing:
        problem = f"lists {said(name)} without its {' and '.join(missing)}: `podman tag` fails"
        findings.add(Kind.BIG_DATA_INCOMPLETE, image.where, problem)
    if name in content.unread:
        return
    if name not in content.items:
        findings.add(
            Kind.BIG_DATA_MISSING,
            image.where,
            f"lists {said(name)} without its file: podman 4 lists no image, podman 5 not this one",
        )
        return
    size, digest = len(content.items[name]), _digest(content.items[name])
    if image.sizes.get(name, size) != size:
        findings.add(Kind.BIG_DATA_DIFFERS, image.where, f"{said(name)} has {size} bytes, not {image.sizes[name]}")
    if image.digests.get(name, digest) != digest:
        problem = f"{said(name)} is {digest}, not {said(image.digests[name])}"
        findings.add(Kind.BIG_DATA_DIFFERS, image.where, problem)


def _check_digests(image: Image, content: Content, findings: Findings) -> None:
    manifests = {name: digest for name, digest in image.digests.items() if name.startswith("manifest")}
    for key, digest in (("digest", image.digest), *manifests.items()):
        if digest and not is_digest(digest):
            problem = f"{said(key)} is {said(digest)}, which is no digest: every podman command fails"
            findings.add(Kind.DIGEST_MALFORMED, image.where, problem)
    if not image.digest and not manifests:
        problem = "has neither digest nor manifest digests: it is not found by NAME@sha256:..."
        findings.add(Kind.MANIFEST_DIGEST_MISSING, image.where, problem)
    held = {_digest(data) for name, data in content.items.items() if name.startswith("manifest")}
    if image.digest and held and image.digest not in held and not content.unread:
        findings.add(Kind.MANIFEST_DIGEST, image.where, f"no manifest of it has its digest {said(image.digest)}")
    for name, data in content.items.items():
        promised = name.removeprefix("manifest-")
        if promised != name and is_digest(promised) and _digest(data) != promised:
            findings.add(Kind.MANIFEST_DIGEST, image.where, f"what it keeps as {said(name)} is {_digest(data)}")


def _check_config(image: Image, content: Content, findings: Findings) -> list[str] | None:
    """The diff ids that the config names, if there is one and it is the image's."""
    data = content.items.get(config_name(image))
    if data is None:
        return None
    if _digest(data) != config_name(image):
        findings.add(
            Kind.IMAGE_ID,
            image.where,
            f"its config is {_digest(data)}, not its id {image.id[:12]}: `podman images` fails",
        )
        return None
    try:
        root = Fields(Fields(parse_json(data)).table("rootfs"))
        return list(root.texts("diff_ids"))
    except ValueError as error:
        findings.add(Kind.CONFIG_BROKEN, image.where, f"its config cannot be read: {error}: `podman images` fails")
        return None


def _check_manifest(image: Image, content: Content, findings: Findings) -> None:
    """The manifest leads to the config; DUCC's copies have capitalised keys, which Go takes too."""
    data = content.items.get("manifest")
    if data is None:
        return
    try:
        manifest = Fields(parse_json(data))
        config = Fields(manifest.table("config"))
        digest, media_type = config.text("digest"), config.text("mediatype")
        manifest.array("layers")
    except ValueError as error:
        findings.add(Kind.MANIFEST_BROKEN, image.where, f"its manifest cannot be read: {error}: `podman images` fails")
        return
    if media_type not in _CONFIG_TYPES:
        problem = (
            f"its manifest calls its config {said(media_type)}: podman takes it for no image, and lists none at all"
        )
        findings.add(Kind.MANIFEST_BROKEN, image.where, problem)
    if digest != config_name(image):
        problem = f"its manifest names the config {said(digest)}, but its id is {image.id[:12]}"
        findings.add(Kind.IMAGE_ID, image.where, problem)


def _check_chain(image: Image, diff_ids: list[str] | None, layers: Mapping[str, Layer], findings: Findings) -> None:
    """The layers below an image are those that its config names."""
    if image.top and image.top not in layers:
        problem = f"its layer {said(image.top[:12])} is not listed: podman calls it corrupt"
        findings.add(Kind.TOP_LAYER_MISSING, image.where, problem)
        return
    if diff_ids is None:
        return
    chain = [layer.diff_digest for layer in chain_of(layers[image.top], layers)][::-1] if image.top else []
    if chain == diff_ids:
        return
    at = next((n for n, (ours, its) in enumerate(zip(chain, diff_ids, strict=False)) if ours != its), None)
    what = f"has {len(chain)} layers, its config {len(diff_ids)}" if at is None else f"layer {at} is not its config's"
    findings.add(Kind.CHAIN_DIFFERS, image.where, f"{what}: the root file system is wrong{_right_top(diff_ids)}")


def _right_top(diff_ids: Sequence[str]) -> str:
    if not diff_ids or not all(map(is_digest, diff_ids)):
        return ""
    return f" (its layer by rule: {chain_ids(diff_ids)[-1][:12]})"


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
