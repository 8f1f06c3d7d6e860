"""layers.json and images.json, read by the rules of Go's encoding/json, which are podman's.

Unknown keys are passed over, keys match in any case, null is nothing; but one value of a wrong type, a time that is
none or a number out of range refuses the whole file: podman 5 then fails with every command, and podman 4 fails too or
shows an empty store.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from podmanstore.checking.defects import Findings, Kind, named, said
from podmanstore.checking.files import read_noting

T = TypeVar("T")

HEX_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d([.,]\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Layer:
    """A record of layers.json; empty or 0 where nothing is said."""

    id: str
    parent: str
    diff_digest: str
    compressed_digest: str
    toc_digest: str
    diff_size: int
    compressed_size: int
    compression: int

    @property
    def where(self) -> str:
        return named("layer", self.id)


@dataclass(frozen=True, slots=True)
class Image:
    """A record of images.json; `items` are its big data names, with what is said of their sizes and digests."""

    id: str
    digest: str
    names: tuple[str, ...]
    top: str
    items: tuple[str, ...]
    sizes: Mapping[str, int]
    digests: Mapping[str, str]

    @property
    def where(self) -> str:
        return named("image", self.names[0] if self.names else self.id)


def read_layers(path: Path, findings: Findings) -> list[Layer]:
    """The records that podman can use; the first of several with one id."""
    layers = dict[str, Layer]()
    for record in _records(path, findings, _layer):
        if not HEX_ID.fullmatch(record.id):
            findings.add(Kind.ID_MALFORMED, record.where, "is not named by 64 hexadecimal digits")
        elif record.id in layers:
            other = "" if record.parent == layers[record.id].parent else " with another parent"
            problem = f"is listed twice{other}: podman 4 reads the last record and podman 5 the first"
            findings.add(Kind.LAYER_TWICE, record.where, problem)
        else:
            layers[record.id] = record
    return list(layers.values())


def read_images(path: Path, findings: Findings) -> list[Image]:
    """The records that podman can use; the first of several with one id."""
    images = dict[str, Image]()
    for record in _records(path, findings, _image):
        if not HEX_ID.fullmatch(record.id):
            findings.add(Kind.ID_MALFORMED, named("image", record.id), "is not named by 64 hexadecimal digits")
        elif record.id in images:
            findings.add(
                Kind.IMAGE_TWICE,
                named("image", record.id),
                "is listed twice, and with it its names: every podman command fails",
            )
        else:
            images[record.id] = record
    return list(images.values())


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def parse_json(content: bytes) -> Any:
    """The value; ValueError says what is wrong with the text."""
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error) or type(error).__name__) from None


def _records(path: Path, findings: Findings, parse: Callable[["Fields"], T]) -> Iterator[T]:
    content = read_noting(path, findings)
    if not content:
        what = "is missing" if content is None else "is empty"
        findings.add(Kind.INDEX_MISSING, named("file", path), f"{what}: podman takes the store for an empty one")
        return
    try:
        values = parse_json(content)
    except ValueError as error:
        _note_refused(Kind.JSON_BROKEN, named("file", path), f"is not JSON ({error})", findings)
        return
    if values is None:
        return
    if not isinstance(values, list):
        _note_refused(Kind.JSON_TYPE, named("file", path), "is not an array", findings)
        return
    for number, value in enumerate(values):
        try:
            yield parse(Fields(value))
        except ValueError as error:
            _note_refused(Kind.JSON_TYPE, named("file", path), f"record {number}: {error}", findings)


def _note_refused(kind: Kind, where: str, problem: str, findings: Findings) -> None:
    findings.add(kind, where, f"{problem}: podman 5 fails with every command, and podman 4 does or shows no images")


def _layer(fields: "Fields") -> Layer:
    fields.check_unused(("names", "big-data-names"), ("metadata", "mountlabel"))
    return Layer(
        id=fields.text("id"),
        parent=fields.text("parent"),
        diff_digest=fields.text("diff-digest"),
        compressed_digest=fields.text("compressed-diff-digest"),
        toc_digest=fields.text("toc-digest"),
        diff_size=fields.number("diff-size"),
        compressed_size=fields.number("compressed-size"),
        compression=fields.number("compression"),
    )


def _image(fields: "Fields") -> Image:
    fields.check_unused(("names-history", "mapped-layers"), ("metadata",))
    return Image(
        id=fields.text("id"),
        digest=fields.text("digest"),
        names=fields.texts("names"),
        top=fields.text("layer"),
        items=fields.texts("big-data-names"),
        sizes={name: _int64(size, name) for name, size in fields.table("big-data-sizes").items()},
        digests={name: _text(digest, name) for name, digest in fields.table("big-data-digests").items()},
    )


class Fields:
    """An object's members by lower-case name; ValueError for what Go would not take."""

    def __init__(self, value: Any) -> None:
        if value is not None and not isinstance(value, dict):
            raise ValueError(f"{said(value)} is not an object")
        self._members: dict[str, Any] = {key.lower(): member for key, member in (value or {}).items()}

    def text(self, key: str) -> str:
        return _text(self._members.get(key), key)

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(_text(member, key) for member in self.array(key))

    def array(self, key: str) -> list[Any]:
        return self._typed(key, list)

    def table(self, key: str) -> dict[str, Any]:
        return self._typed(key, dict)

    def number(self, key: str) -> int:
        return _int64(self._members.get(key), key)

    def check_unused(self, texts: tuple[str, ...], text: tuple[str, ...]) -> None:
        """Types of what is not checked any further, but would refuse the file."""
        for key in texts:
            self.texts(key)
        for key in text:
            self.text(key)
        self.table("flags")
        created = self.text("created")
        if self._members.get("created") is not None and not _is_time(created):
            raise ValueError(f"created: {said(created)} is not an RFC 3339 time")

    def _typed(self, key: str, kind: type[T]) -> T:
        value = self._members.get(key)
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{key}: {said(value)} is of a wrong type")
        return kind() if value is None else value


def _text(value: Any, key: str) -> str:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{said(key)}: {said(value)} is not a string")
    return value or ""


def _int64(value: Any, key: str) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{said(key)}: {said(value)} is not a whole number")
    return value


def _is_time(text: str) -> bool:
    if not _TIME.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
