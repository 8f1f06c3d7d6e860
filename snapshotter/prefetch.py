"""Brings an image into the cache of the CVMFS client: catalogs first, then files.

A catalog is loaded by the first listing of its directory, so every directory of every layer is listed; a file is cached
by reading it. Each operation has the repository's deadline; so many run side by side, so many start in a second; and
bytes and time have limits. A layer that does not answer in time is left, and said.
"""

import os
import posixpath
import stat
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import BinaryIO, TypeVar

import msgspec

from cvmfsrepo.contained import holder_of, listed_directory, opened_file
from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss
from cvmfsrepo.guarded import GuardedRepository
from cvmfsrepo.outline import Outline
from cvmfsrepo.reasons import Reason
from cvmfsrepo.repository import Layer, Missing
from cvmfsrepo.whiteouts import Markers, is_overlay_whiteout
from snapshotter.imagetree import ImageTree, Kind, Listing, merged

T = TypeVar("T")
W = TypeVar("W")

_CHUNK = 1 << 20
_KEPT = 64 << 20
"""Bytes of a file's beginning that are looked into."""

_HOPELESS = frozenset({Reason.TIMEOUT, Reason.BREAKER_OPEN, Reason.UNMOUNTED})
"""Reasons that are not one file's but the layer's."""

_MOST_PROBLEMS = 100


class Prefetched(msgspec.Struct, frozen=True):
    """What was brought in. `complete` where nothing that was asked for is left out; `stopped` says which limit ended
    it, or ""; `problems` are the first things that could not be had."""

    image: str
    layers: int
    directories: int
    files: int
    bytes_read: int
    seconds: float
    complete: bool
    stopped: str = ""
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Bounds:
    """`workers` operations at one time, `rate` started in a second; `most_bytes` and `seconds` in all, None for no
    limit."""

    workers: int = 4
    rate: float = 200.0
    most_bytes: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """A layer, and the repository that serves it."""

    repository: GuardedRepository
    digest: Digest


@dataclass(slots=True)
class _Counts:
    directories: int = 0
    files: int = 0
    bytes_read: int = 0
    stopped: str = ""
    problems: list[str] = field(default_factory=list)
    left: dict[Digest, str] = field(default_factory=dict)


class Prefetch:
    """One run over the layers of an image, base first. `tell` hears how far it is."""

    def __init__(
        self, layers: Sequence[Place], bounds: Bounds, tell: Callable[[str], object] = lambda text: None
    ) -> None:
        self._layers, self._bounds, self._tell = layers, bounds, tell
        self._began = self._next = time.monotonic()
        self._lock = threading.Lock()
        self._counts = _Counts()

    def list_all(self) -> ImageTree:
        """Lists every directory of every layer; the names that the image shows."""
        listings = [dict[bytes, Kind]() for _ in self._layers]
        roots = [(number, b"") for number in range(len(self._layers))]

        def work(item: tuple[int, bytes]) -> list[tuple[int, bytes]]:
            number, directory = item
            names = self._ask(self._layers[number], lambda place: _names(place, directory), directory)
            if names is None:
                return []
            with self._lock:
                self._counts.directories += 1
                listings[number].update(names)
            return [(number, path) for path, kind in names.items() if kind is Kind.DIRECTORY]

        self._spread(work, roots, lambda: f"catalogs: {self._counts.directories} directories listed")
        return merged([(listing, self._markers(n)) for n, listing in enumerate(listings)])

    def read_all(self, tree: ImageTree) -> None:
        """Reads every file that the image shows."""
        files = [(node.layer, path) for path, node in tree.walk() if node.kind is Kind.FILE]

        def work(item: tuple[int, bytes]) -> list[tuple[int, bytes]]:
            self.read(*item)
            return []

        self._spread(work, files, lambda: f"files: {self._counts.files} of {len(files)}")

    def read(self, layer: int, path: bytes) -> bytes:
        """Reads a whole file, and answers its beginning; b"" where it cannot be had."""
        place, kept, size = self._layers[layer], list[bytes](), 0
        with ExitStack() as opened:
            file = self._ask(place, lambda place: _opened(place, path, opened), path)
            while file is not None:
                chunk = self._ask(place, lambda _: file.read(_CHUNK), path, is_new=False)
                if chunk is None:
                    opened.pop_all()  # a thread may hang in it: closing would hang too
                    return b""
                if not chunk:
                    break
                size += len(chunk)
                kept += [chunk] if size <= _KEPT else []
                self._count_bytes(len(chunk))
        if file is not None:
            with self._lock:
                self._counts.files += 1
            self._tell(f"files: {self._counts.files}, {self._counts.bytes_read} bytes")
        return b"".join(kept)

    def read_link(self, layer: int, path: bytes) -> bytes | None:
        return self._ask(self._layers[layer], lambda place: _link(place, path), path)

    def result(self, image: str, notes: Iterable[str] = (), missing: Iterable[str] = ()) -> Prefetched:
        """What was done so far; `missing` are layers that no repository serves."""
        counts = self._counts
        problems = (*missing, *counts.left.values(), *counts.problems)
        return Prefetched(
            image, len(self._layers), counts.directories, counts.files, counts.bytes_read,
            round(time.monotonic() - self._began, 3), not problems and not counts.stopped, counts.stopped,
            problems[:_MOST_PROBLEMS], tuple(notes),
        )  # fmt: skip

    def _markers(self, layer: int) -> Markers | None:
        """What the layer's record says that it deletes."""
        outline = self._ask(self._layers[layer], _outline, b"") if self._layers else None
        return Markers((*outline.whiteouts, *outline.devices), outline.opaques) if outline else None

    def _ask(self, place: Place, work: Callable[[Place], T], path: bytes, is_new: bool = True) -> T | None:
        """An answer of the repository under its deadline, or None, of which a problem is noted."""
        if self._is_over() or place.digest in self._counts.left:
            return None
        if is_new:
            self._await_turn()
        try:
            answer: T | Missing = place.repository.call(lambda: work(place), place.digest)
        except DataLoss as error:
            answer = Missing(Reason.MARKERS_UNAVAILABLE, str(error))
        if not isinstance(answer, Missing):
            return answer
        with self._lock:
            if answer.reason in _HOPELESS:
                self._counts.left.setdefault(place.digest, f"layer {place.digest}: {answer.reason}: {answer.detail}")
            elif len(self._counts.problems) < _MOST_PROBLEMS:
                self._counts.problems.append(f"layer {place.digest}: /{os.fsdecode(path)}: {answer.detail}")
        return None

    def _count_bytes(self, count: int) -> None:
        with self._lock:
            self._counts.bytes_read += count

    def _is_over(self) -> bool:
        bounds, counts = self._bounds, self._counts
        if bounds.most_bytes is not None and counts.bytes_read >= bounds.most_bytes:
            counts.stopped = counts.stopped or f"the limit of {bounds.most_bytes} bytes"
        if bounds.seconds is not None and time.monotonic() - self._began >= bounds.seconds:
            counts.stopped = counts.stopped or f"the limit of {bounds.seconds:g} s"
        return bool(counts.stopped)

    def _await_turn(self) -> None:
        with self._lock:
            now = time.monotonic()
            self._next = max(now, self._next + 1 / self._bounds.rate)
            turn = self._next
        time.sleep(max(0.0, turn - now))

    def _spread(self, work: Callable[[W], list[W]], items: Iterable[W], said: Callable[[], str]) -> None:
        """Does the items, and those that come of them, side by side."""
        waiting, running = list(items)[::-1], set[Future[list[W]]]()
        with ThreadPoolExecutor(self._bounds.workers) as threads:
            while running or (waiting and not self._is_over()):
                while waiting and len(running) < self._bounds.workers:
                    running.add(threads.submit(work, waiting.pop()))
                done, running = wait(running, return_when=FIRST_COMPLETED)
                waiting += [item for future in done for item in future.result()]
                self._tell(said())


class ServedImage:
    """The image as `usedfiles.used_files` looks at it."""

    def __init__(self, prefetch: Prefetch, tree: ImageTree) -> None:
        self._prefetch, self._tree = prefetch, tree
        self._named = defaultdict[bytes, list[bytes]](list)
        for path, node in tree.walk():
            if node.kind in (Kind.FILE, Kind.LINK) and b".so" in path:
                self._named[posixpath.basename(path)].append(path)

    def find_file(self, path: bytes) -> bytes | None:
        found = self._tree.resolve(path, self._prefetch.read_link)
        node = self._tree.find(found) if found is not None else None
        return found if node and node.kind is Kind.FILE else None

    def read(self, path: bytes) -> bytes:
        node = self._tree.find(path)
        return self._prefetch.read(node.layer, path) if node else b""

    def find_named(self, name: bytes) -> Sequence[bytes]:
        return self._named.get(name, [])

    def list_names(self, directory: bytes) -> Sequence[bytes]:
        found = self._tree.resolve(directory, self._prefetch.read_link)
        node = self._tree.find(found) if found is not None else None
        return list(node.children) if node else []

    def expanded(self, paths: Iterable[bytes]) -> Iterator[bytes]:
        """The same paths; a directory stands for all files below it, and what is not there is passed over."""
        for path in paths:
            found = self._tree.resolve(path, self._prefetch.read_link)
            if found is not None:
                yield from (below for below, node in self._tree.walk(found) if node.kind is Kind.FILE)


def places(repositories: Sequence[GuardedRepository], layers: Iterable[Digest]) -> tuple[list[Place], list[str]]:
    """Where each layer is, base first; and why others are nowhere."""
    found, missing = list[Place](), list[str]()
    for layer in layers:
        answers = [(repository, _find(repository, layer)) for repository in repositories]
        served = [Place(repository, layer) for repository, answer in answers if isinstance(answer, Layer)]
        found += served[:1]
        if not served:
            whys = [f"{answer.reason}: {answer.detail}" for _, answer in answers if isinstance(answer, Missing)]
            missing.append(f"layer {layer} is not served: {'; '.join(whys) or 'no repository is configured'}")
    return found, missing


def _find(repository: GuardedRepository, layer: Digest) -> Layer | Missing:
    return repository.call(lambda: repository.repository.find_layer(layer), layer)


def _names(place: Place, directory: bytes) -> Listing:
    """What a directory of a layer holds; a listing is what loads its catalog."""
    layout = place.repository.repository.layout
    found = dict[bytes, Kind]()
    with (
        listed_directory(layout.root, layout.layerfs(place.digest) / os.fsdecode(directory)) as descriptor,
        os.scandir(descriptor) as names,
    ):
        for name in names:
            found[posixpath.join(directory, os.fsencode(name.name))] = _kind(name, descriptor)
    return found


def _kind(name: os.DirEntry[str], directory: int) -> Kind:
    if name.is_dir(follow_symlinks=False):
        return Kind.DIRECTORY
    if name.is_symlink():
        return Kind.LINK
    if name.is_file(follow_symlinks=False):
        return Kind.FILE
    status = os.stat(name.name, dir_fd=directory, follow_symlinks=False)
    is_whiteout = stat.S_ISCHR(status.st_mode) and is_overlay_whiteout(status.st_mode, status.st_rdev)
    return Kind.WHITEOUT if is_whiteout else Kind.OTHER


def _outline(place: Place) -> Outline | None:
    return place.repository.repository.find_outline(place.digest)


def _opened(place: Place, path: bytes, opened: ExitStack) -> BinaryIO:
    layout = place.repository.repository.layout
    full = layout.layerfs(place.digest) / os.fsdecode(path)
    return opened.enter_context(opened_file(layout.root, full, 0))


def _link(place: Place, path: bytes) -> bytes:
    layout = place.repository.repository.layout
    with holder_of(layout.root, layout.layerfs(place.digest) / os.fsdecode(path)) as (directory, name):
        return os.readlink(os.fsencode(name), dir_fd=directory)
