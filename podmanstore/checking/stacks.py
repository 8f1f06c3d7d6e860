"""What is mounted for a container: its layer on everything that stands below, and the limits on that.

A container's own layer stands on an image's top layer, so its `lower` has one entry more than the top layer's.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from podmanstore.checking.defects import Findings, Kind, named
from podmanstore.checking.indices import Image, Layer
from podmanstore.checking.outside import Seen
from podmanstore.checking.overlay import Entry

DEPTH = 500
"""Lowers that the kernel takes, and podman 5."""

DEPTH_PODMAN_4 = 128
PAGE = 4096
"""Bytes of mount options that podman 4 can give; beyond them it uses names relative to its own store."""

OTHER_OPTIONS = 300
"""Bytes of it that are not lowers: upper and work directory in the user's own store, and flags."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Everything below a container on an image, topmost first."""

    image: Image
    entries: tuple[Entry, ...]

    @property
    def page(self) -> int:
        """Bytes of mount options without those that the store's path takes in each lower."""
        return OTHER_OPTIONS + sum(len("/overlay/l/") + len(entry.link) + 1 for entry in self.entries)

    def bytes_at(self, store: str) -> int:
        """Bytes of mount options with a store at this path."""
        return self.page + len(self.entries) * len(os.fsencode(store))

    @property
    def longest_path(self) -> int:
        """Length of the longest store path with which podman 4 mounts it; negative where none would do."""
        return (PAGE - 1 - self.page) // max(1, len(self.entries))


def stacks_of(images: Iterable[Image], entries: Mapping[str, Entry]) -> list[Stack]:
    """One for each image whose top layer has its directory."""
    return [Stack(image, _stack(entries[image.top], entries)) for image in images if image.top in entries]


def check_limits(store: str, stacks: Iterable[Stack], findings: Findings) -> int:
    """Notes what is too deep, and gives the number of images that podman 4 can mount."""
    mountable, shorter = 0, list[int]()
    for stack in stacks:
        if problem := _depth_problem(stack, findings):
            continue
        if stack.bytes_at(store) < PAGE:
            mountable += 1
        else:
            shorter.append(stack.longest_path)
            _note_page(store, stack, findings)
    if useful := [length for length in shorter if length > 1]:
        problem = (
            f"has {len(store)} characters: podman 4 mounts {len(useful)} images more"
            f" if it has at most {min(useful)}, and some of them with up to {max(useful)}"
        )
        findings.add(Kind.STORE_PATH_LONG, named("store", store), problem)
    return mountable


def check_path(store: str, findings: Findings) -> None:
    """Characters that mean something in mount options."""
    if bad := sorted(set(store) & set(":,\\")):
        problem = f"has {' '.join(bad)} in its path, which mean something in mount options: nothing can be mounted"
        findings.add(Kind.STORE_PATH, named("store", store), problem)


def check_parents(layers: Mapping[str, Layer], entries: Mapping[str, Entry], findings: Findings) -> None:
    """What is mounted for a layer shows its parent too: each entry of the parent's, or one that shows the same."""
    for layer in layers.values():
        entry, parent = entries.get(layer.id), entries.get(layer.parent)
        if entry is None or parent is None or _contains(entry, parent):
            continue
        if not entry.lowers:
            problem = f"has no `lower`, though its parent is {parent.id[:12]}: what stands below it is not shown"
            findings.add(Kind.LOWER_MISSING, layer.where, problem)
            continue
        shown = {below.content_key for below in _stack(entry, entries)}
        if missing := [below for below in _stack(parent, entries) if below.content_key not in shown]:
            problem = f"its `lower` lacks {missing[0].id[:12]} of its parent {parent.id[:12]}: files are not shown"
            findings.add(Kind.LOWER_INCOMPLETE, layer.where, problem)


def check_repeated(stacks: Iterable[Stack], seen: Mapping[str, Seen | OSError], findings: Findings) -> None:
    """The kernel refuses a directory that stands twice in one stack (ELOOP)."""
    for stack in stacks:
        places = dict[object, str]()
        for entry in stack.entries:
            answer = seen.get(entry.target)
            place = answer.identity if isinstance(answer, Seen) else entry.target or entry.id
            if place in places:
                problem = f"{places[place][:12]} and {entry.id[:12]} below it are one directory: the kernel refuses"
                findings.add(Kind.DIRECTORY_TWICE, stack.image.where, problem)
                break
            places[place] = entry.id


def check_markers(
    tops: Iterable[Entry], entries: Mapping[str, Entry], seen: Mapping[str, Seen | OSError], findings: Findings
) -> None:
    """Catalog and deletion markers in the root of a layer are hidden by something above it."""
    for top in tops:
        hidden = set[str]()
        for entry in _stack(top, entries):
            answer = seen.get(entry.target)
            if isinstance(answer, Seen) and (visible := sorted(answer.markers - hidden)):
                _note_visible(entry, visible, findings)
            hidden.update(name for name, hides in entry.contents.items() if hides)


def tops_of(layers: Mapping[str, Layer], images: Iterable[Image], entries: Mapping[str, Entry]) -> Iterator[Entry]:
    """What a container may stand on: images' layers, and layers on which no other stands."""
    inner = {layer.parent for layer in layers.values()} | {id_ for entry in entries.values() for id_ in entry.lowers}
    ids = [image.top for image in images] + [id_ for id_ in layers if id_ not in inner]
    return (entries[id_] for id_ in dict.fromkeys(ids) if id_ in entries)


def _stack(entry: Entry, entries: Mapping[str, Entry]) -> tuple[Entry, ...]:
    return (entry, *(entries[id_] for id_ in entry.lowers if id_ in entries))


def _contains(entry: Entry, parent: Entry) -> bool:
    return parent.id in entry.lowers and set(parent.lowers) <= set(entry.lowers)


def _depth_problem(stack: Stack, findings: Findings) -> str:
    depth, where = len(stack.entries), stack.image.where
    if depth > DEPTH:
        problem = f"stands on {depth} directories: no podman mounts more than {DEPTH}"
        findings.add(Kind.DEPTH, where, problem)
        return problem
    if depth > DEPTH_PODMAN_4:
        problem = f"stands on {depth} directories: podman 4 mounts at most {DEPTH_PODMAN_4}"
        findings.add(Kind.DEPTH_PODMAN_4, where, problem)
        return problem
    return ""


def _note_page(store: str, stack: Stack, findings: Findings) -> None:
    longest = stack.longest_path
    what = f"the store's path may have {longest} characters" if longest > 1 else "no path is short enough"
    problem = (
        f"its {len(stack.entries)} directories need {stack.bytes_at(store)} bytes of mount options,"
        f" and podman 4 has {PAGE}: {what}, and has {len(store)}"
    )
    findings.add(Kind.PAGE_PODMAN_4, stack.image.where, problem)


def _note_visible(entry: Entry, visible: list[str], findings: Findings) -> None:
    if ".cvmfscatalog" in visible:
        problem = "its `diff` leads to a layer with .cvmfscatalog, which nothing above hides: containers see it"
        findings.add(Kind.CATALOG_VISIBLE, entry.where, problem)
    if markers := [name for name in visible if name != ".cvmfscatalog"]:
        problem = f"{markers[0]!r} of its layer is not hidden: kernel overlayfs shows it and what it deletes"
        findings.add(Kind.MARKER_VISIBLE, entry.where, problem)
