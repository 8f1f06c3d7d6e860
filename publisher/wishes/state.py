"""What earlier passes found, on disk and outside of the repository: one file an image, replaced by rename.

Losing it costs one look at each image and nothing else: the repository is the truth.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from cvmfsrepo.oci import Reference
from publisher.durable import write_durably
from publisher.registry.pages import Page
from publisher.transactions.lock import Stopped, held, never

DEFAULT = Path("/var/lib/cvmfs-publisher")
DAY = 86400.0
"""Seconds."""


class Part(msgspec.Struct, frozen=True):
    """One platform of an image: the name that it is published under, and its manifest's digest."""

    platform: str
    name: str
    manifest: str


class ImageState(msgspec.Struct, frozen=True, kw_only=True):
    """One image. `digest` is what its name meant in the registry when it was last published whole, "" if never, and
    `flat` whether its tree for Apptainer was part of that. Where the last attempt failed, `reason` says why,
    `failed_since` when that began, `attempts` how often, `retry_at` when `watch` tries again. Times are seconds since
    1970."""

    reference: str
    version: Literal[1] = 1
    digest: str = ""
    parts: tuple[Part, ...] = ()
    published_at: float = 0
    flat: bool = False
    reason: str = ""
    failed_since: float = 0
    attempts: int = 0
    retry_at: float = 0


class Wanted(msgspec.Struct, frozen=True):
    """What the last pass was asked for. With `expire_days` an image is wanted only so long after its last push."""

    recipe: str
    references: tuple[str, ...]
    version: Literal[1] = 1
    expire_days: int | None = None

    @property
    def lasting(self) -> tuple[str, ...]:
        """What is wanted for as long as it stands in the recipe."""
        return () if self.expire_days else self.references

    @property
    def why_expired(self) -> str:
        """Of an image; a registry's answer to the same image again is the one of before."""
        return f"was new more than {self.expire_days} days ago: push another image, the same again is not seen"

    def end_of(self, image: ImageState) -> float | None:
        """When an image's time is over, in seconds since 1970; None where it has no end, or was never published."""
        return image.published_at + self.expire_days * DAY if self.expire_days and image.digest else None


class _List(msgspec.Struct, frozen=True):
    """What a registry's list said, with the marks by which it can say that nothing changed."""

    name: str
    pages: tuple[Page, ...]
    version: Literal[1] = 1


_T = TypeVar("_T")
_decode_image = msgspec.json.Decoder(ImageState).decode
_decode_wanted = msgspec.json.Decoder(Wanted).decode
_decode_left_alone = msgspec.json.Decoder(dict[str, float]).decode
_decode_list = msgspec.json.Decoder(_List).decode


@dataclass(frozen=True, slots=True)
class StateDirectory:
    """A directory of state. `damaged` collects the files that were put aside, for whoever tells the operator; where it
    is `only_read`, they stay."""

    root: Path
    damaged: list[Path]
    only_read: bool = False

    @classmethod
    def at(cls, root: Path) -> "StateDirectory":
        (root / "images").mkdir(mode=0o755, parents=True, exist_ok=True)
        return cls(root, [])

    @contextmanager
    def locked(self, wait: float = 0, stopped: Stopped = never) -> Iterator[None]:
        """One pass at a time. Unavailable where another has it for longer than `wait` seconds, or until `stopped`."""
        with held(self.root / "lock", str(self.root), wait, stopped, "state"):
            yield

    def find(self, reference: Reference) -> ImageState | None:
        return self._image(self._path(str(reference)))

    def walk(self) -> Iterator[ImageState]:
        for path in sorted((self.root / "images").glob("*.json")):
            if found := self._image(path):
                yield found

    def write(self, image: ImageState) -> None:
        write_durably(self._path(image.reference), msgspec.json.encode(image))

    def wanted(self) -> Wanted | None:
        return self._read(self.root / "wanted.json", _decode_wanted)

    def write_wanted(self, wanted: Wanted) -> None:
        if self.wanted() != wanted:
            write_durably(self.root / "wanted.json", msgspec.json.encode(wanted))

    def left_alone(self) -> dict[str, float]:
        """Registries that asked to be left alone, until when in seconds since 1970."""
        return self._read(self.root / "registries.json", _decode_left_alone) or {}

    def write_left_alone(self, until: Mapping[str, float]) -> None:
        if self.left_alone() != until:
            write_durably(self.root / "registries.json", msgspec.json.encode(until))

    def find_list(self, name: str) -> tuple[Page, ...]:
        """What a registry's list said, by its name."""
        known = self._read(self._list_path(name), _decode_list)
        return known.pages if known and known.name == name else ()

    def keep_list(self, name: str, pages: tuple[Page, ...]) -> None:
        self._list_path(name).parent.mkdir(mode=0o755, exist_ok=True)
        write_durably(self._list_path(name), msgspec.json.encode(_List(name, pages)))

    def _list_path(self, name: str) -> Path:
        return self.root / "lists" / f"{hashlib.sha256(name.encode()).hexdigest()}.json"

    def _path(self, reference: str) -> Path:
        return self.root / "images" / f"{hashlib.sha256(reference.encode()).hexdigest()}.json"

    def _image(self, path: Path) -> ImageState | None:
        found = self._read(path, _decode_image)
        if found is not None and self._path(found.reference) != path:
            self._put_aside(path)
            return None
        return found

    def _read(self, path: Path, decode: Callable[[bytes], _T]) -> _T | None:
        """A file's value; None where there is none, or one that is damaged and put aside."""
        try:
            return decode(path.read_bytes())
        except FileNotFoundError:
            return None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self._put_aside(path)
            return None

    def _put_aside(self, path: Path) -> None:
        if self.only_read:
            self.damaged.append(path)
            return
        aside = path.with_suffix(".damaged")
        try:
            path.rename(aside)
        except FileNotFoundError:  # somebody else did
            return
        self.damaged.append(aside)
