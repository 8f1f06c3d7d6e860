"""Reads a store as podman 4.3, 5.4 and 5.8 do, and says what is wrong with it.

An independent reader, on purpose: it shares nothing with what writes the store, so that one error is not made twice.
It reads a store of any origin, and one that is damaged in any way.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cvmfsrepo.access import Access, DeadlineExpired
from podmanstore.checking import files, images, layers, overlay, stacks
from podmanstore.checking.defects import Defect, Findings, Kind, Severity, named
from podmanstore.checking.indices import Image, Layer, read_images, read_layers
from podmanstore.checking.outside import Outside, Seen, look
from podmanstore.checking.overlay import Entry

__all__ = ["Checked", "Defect", "Kind", "Severity", "check_store", "examine_store"]

_LOCK_BYTES = 64
_DIRECTORIES = ("overlay", "overlay/l", "overlay-images", "overlay-layers")


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found, errors first, and what the store holds: `layers` and `images` that podman can read from its
    indices, and `podman4_images`, those that are within the limits of podman 4."""

    defects: tuple[Defect, ...]
    layers: int
    images: int
    podman4_images: int

    @property
    def errors(self) -> int:
        return sum(defect.severity is Severity.ERROR for defect in self.defects)


def check_store(store: Path, *, repository_deadline: float = 5.0) -> list[Defect]:
    """The defects of a store, errors first; none is a good store."""
    return list(examine_store(store, repository_deadline=repository_deadline).defects)


def examine_store(store: Path, *, repository_deadline: float = 5.0) -> Checked:
    """The defects of a store and its counts.

    `store` is the path that stands in storage.conf: its length counts. `repository_deadline`, in seconds, is how long
    one layer may take to answer; a repository that takes longer is asked once and reported. A store that lies in a
    repository itself must answer its first question in that time.
    """
    store, findings = Path(os.path.abspath(store)), Findings()
    answers = _answers(store, repository_deadline, findings)
    counts = _check(store, repository_deadline, findings) if answers else (0, 0, 0)
    defects = sorted(findings, key=lambda defect: defect.severity is not Severity.ERROR)
    return Checked(tuple(defects), *counts)


def _check(store: Path, deadline: float, findings: Findings) -> tuple[int, int, int]:
    stacks.check_path(str(store), findings)
    _check_locks(store, findings)
    listed = {layer.id: layer for layer in read_layers(store / "overlay-layers/layers.json", findings)}
    shown = read_images(store / "overlay-images/images.json", findings)
    entries = overlay.read_entries(store, findings)
    outside = Outside(findings, deadline)
    layers.check_layers(listed, findings)
    _check_directories(listed, entries, findings)
    _check_images(store, shown, listed, outside, findings)
    seen = _look_outside(store, listed, entries, outside, findings)
    built = stacks.stacks_of(shown, entries)
    stacks.check_parents(listed, entries, findings)
    stacks.check_repeated(built, seen, findings)
    mounted = {layer.id: layer for layer in listed.values() if not layers.is_copy_source(layer)}
    stacks.check_markers(stacks.tops_of(mounted, shown, entries), entries, seen, findings)
    podman4 = stacks.check_limits(str(store), built, findings)
    outside.report()
    return len(listed), len(shown), podman4


def _answers(store: Path, deadline: float, findings: Findings) -> bool:
    """Whether there is a store to look into."""
    try:
        Access(deadline).call(partial(os.listdir, store))
    except DeadlineExpired:
        findings.add(Kind.STORE_SILENT, named("store", store), f"does not answer within {deadline:g} s")
    except (FileNotFoundError, NotADirectoryError):
        findings.add(Kind.STORE_MISSING, named("store", store), "is no directory")
    except OSError as error:
        findings.add(Kind.UNREADABLE, named("store", store), f"cannot be listed: {error.strerror}")
    else:
        return True
    return False


def _check_locks(store: Path, findings: Findings) -> None:
    files.listed(store, findings)
    for name in _DIRECTORIES:
        if files.listed(store / name, findings) is None:
            problem = "is missing: podman cannot use the store, and fails where it cannot make it"
            findings.add(Kind.DIRECTORY_MISSING, named("directory", store / name), problem)
    for path in (store / "overlay-images/images.lock", store / "overlay-layers/layers.lock"):
        content = files.read_noting(path, findings)
        if content is None and not os.path.exists(path):
            problem = "is missing: podman 4 fails with every command, and podman 5 does or shows no images"
            findings.add(Kind.LOCK_MISSING, named("file", path), problem)
        elif content is not None and len(content) < _LOCK_BYTES:
            problem = f"has {len(content)} bytes of {_LOCK_BYTES}: a running podman 5 service never sees a change"
            findings.add(Kind.LOCK_SHORT, named("file", path), problem)


def _check_directories(listed: Mapping[str, Layer], entries: Mapping[str, Entry], findings: Findings) -> None:
    """Every listed layer has a directory, and every directory is a listed layer or stands below one."""
    for layer in listed.values():
        if layer.id not in entries:
            problem = "is listed, but has no directory in overlay/: containers and pulls on it fail"
            findings.add(Kind.LAYER_DIRECTORY_MISSING, layer.where, problem)
    below = {id_ for entry in entries.values() for id_ in entry.lowers}
    for id_, entry in entries.items():
        if id_ not in listed and id_ not in below:
            problem = "has a directory in overlay/, but no record: a pull of an image with this layer fails"
            findings.add(Kind.LAYER_DIRECTORY_UNLISTED, entry.where, problem)


def _check_images(
    store: Path, shown: list[Image], listed: Mapping[str, Layer], outside: Outside, findings: Findings
) -> None:
    images.check_names(shown, findings)
    linked = _linked_data(store, shown, outside, findings)
    for image in shown:
        files.listed(store / "overlay-images" / image.id, findings)
        images.check_image(image, _read_data(store, image, linked, findings), listed, findings)


def _linked_data(
    store: Path, shown: Iterable[Image], outside: Outside, findings: Findings
) -> dict[str, tuple[bytes, int] | OSError | None]:
    """Content of the items that are links, by path; None where its repository did not answer."""
    paths = [images.data_path(store, image, name) for image in shown for name in images.data_names(image)]
    targets = {path: _target_of(path, text) for path in paths if path and (text := files.link_text(path))}
    answers = outside.ask(targets.values(), partial(files.read, follow=True))
    return {path: answers.get(target) for path, target in targets.items()}


def _read_data(
    store: Path,
    image: Image,
    linked: Mapping[str, tuple[bytes, int] | OSError | None],
    findings: Findings,
) -> images.Content:
    items, unread = dict[str, bytes](), set[str]()
    for name in images.data_names(image):
        path = images.data_path(store, image, name)
        if path is None:
            continue
        if path not in linked:
            content = files.read_noting(path, findings, follow=False)
        elif (answer := linked[path]) is None:
            unread.add(name)
            continue
        else:
            content = None if isinstance(answer, OSError) else answer[0]
        if content is not None:
            items[name] = content
    return images.Content(items, frozenset(unread))


def _look_outside(
    store: Path,
    listed: Mapping[str, Layer],
    entries: Mapping[str, Entry],
    outside: Outside,
    findings: Findings,
) -> dict[str, Seen | OSError]:
    """Looks at what `diff` and tar-split links lead to."""
    splits = dict[str, Layer]()
    for layer in listed.values():
        path = layers.tar_split_path(store, layer)
        if text := files.link_text(path):
            splits[_target_of(path, text)] = layer
    seen = outside.ask([*(entry.target for entry in entries.values() if entry.target), *splits], look)
    for entry in entries.values():
        answer = seen.get(entry.target)
        if isinstance(answer, OSError) or (answer and not answer.is_directory):
            what = answer.strerror if isinstance(answer, OSError) else "it is no directory"
            problem = f"its `diff` leads to {entry.target!r} ({what}): containers on it and pulls fail"
            findings.add(Kind.DIFF_DANGLING, entry.where, problem)
    for target, layer in splits.items():
        if isinstance(answer := seen.get(target), OSError):
            problem = f"its tar-split leads to {target!r}: {answer.strerror}"
            findings.add(Kind.TAR_SPLIT_DANGLING, layer.where, problem)
    return seen


def _target_of(path: str, text: str) -> str:
    return os.path.normpath(os.path.join(os.path.dirname(path), text))
