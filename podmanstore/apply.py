"""A plan -> the store on the disk, such that every reader finds the old store or the new one, and so does a crash.

    <store>/overlay/<id>/{diff,link,lower,lower-layers}, overlay/l/<link>     entries
    <store>/overlay-layers/{layers.json,layers.lock,<id>.tar-split.gz}
    <store>/overlay-images/{images.json,images.lock,<id>/...}
    <store>/.building/                                                        what a build is making

What an index lists is there before the index, and goes after it; a lock changes after its index. Everything is made
below `.building` and renamed. The list `.building/placed` is there before anything of the store changes, and goes when
all has: a build that finds it trusts nothing that the store lists, for what a dead one was about to list may stand in
its place. It names the entries that are there before layers.json tells of them: podman fails to pull a layer whose
directory it finds and whose record it does not, so a later build that does not want them removes them. Callers hold
`lockfiles.building`.
"""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cvmfsrepo.errors import FailedPrecondition
from cvmfsrepo.shimtree import write_shim
from podmanstore import disk
from podmanstore.ids import link_name
from podmanstore.lockfiles import read_token, token, write_token
from podmanstore.plan import Plan
from podmanstore.records import (
    IMAGES,
    IMAGES_JSON,
    IMAGES_LOCK,
    LAYERS,
    LAYERS_JSON,
    LAYERS_LOCK,
    OVERLAY,
    ImageRecord,
    LayerRecord,
    read_images,
    read_layers,
)
from podmanstore.stacks import Entry

BUILDING = ".building"
PLACED = "placed"


@dataclass(frozen=True, slots=True)
class Changes:
    """What a build changed: numbers of layers and images that are listed anew, are listed and were made anew, are
    listed no more. `mended` counts what an earlier build had left undone."""

    layers_added: int = 0
    layers_changed: int = 0
    images_added: int = 0
    images_changed: int = 0
    images_removed: int = 0
    mended: int = 0

    def __bool__(self) -> bool:
        return self != Changes()

    def __str__(self) -> str:
        if not self:
            return "nothing changed"
        numbers = {
            "layers added": self.layers_added,
            "layers changed": self.layers_changed,
            "images added": self.images_added,
            "images changed": self.images_changed,
            "images removed": self.images_removed,
            "leftovers mended": self.mended,
        }
        return ", ".join(f"{number} {what}" for what, number in numbers.items() if number)


def apply(store: Path, plan: Plan, mend: bool = False, listed: Sequence[LayerRecord] | None = None) -> Changes:
    """Makes the store what the plan says; where it is that already, nothing is written. `listed` is what it lists, if
    that was read since `building` began.

    Layers that are listed with what they hold are trusted; with `mend` each is looked at, and made again where it is
    not what it should be. FailedPrecondition where the store lists a layer that the plan does not; ResourceExhausted
    where the disk is full: the old store is whole, and the next build goes on.
    """
    with disk.explained(store):
        application = _Application(store, plan, mend, read_layers(store) if listed is None else listed)
        try:
            return application.run()
        except BaseException:
            with suppress(OSError):
                clear(store)
            raise


class _Application:
    """One run: what the store lists, and what differs."""

    def __init__(self, store: Path, plan: Plan, mend: bool, listed: Iterable[LayerRecord]) -> None:
        self._store, self._plan, self._mend = store, plan, mend or is_half_done(store)
        self._overlay, self._images = f"{store}/{OVERLAY}", f"{store}/{IMAGES}"
        self._new = f"{store}/{BUILDING}"
        self._layers_were = {record.id: record for record in listed}
        self._images_were = {record.id: record for record in read_images(store)}
        self._records = {record.id: record for record in plan.layers}
        if unknown := sorted(self._layers_were.keys() - self._records.keys()):
            problem = f"lists {len(unknown)} layers that this build was planned without, as {unknown[0]}"
            raise FailedPrecondition("store", str(store), problem, "build again")

    def run(self) -> Changes:
        """Decides everything, then does it."""
        layers, images_json = self._plan.layers_json, self._plan.images_json
        indices = (LAYERS_JSON, LAYERS_LOCK, layers), (IMAGES_JSON, IMAGES_LOCK, images_json)
        entries = [entry for entry in self._plan.entries if not self._has_entry(entry)]
        images = [image for image in self._plan.images if not self._has_documents(image)]
        changes = self._changes(entries, images)
        outdated = [index for index in indices if not _is_current(self._store, *index)]
        if not (changes or entries or outdated or self._unlisted_images() or os.path.lexists(self._new)):
            return changes
        self._make_ready()
        placed_before = self._placed()
        self._place(entries, placed_before)
        for image in images:
            self._place_documents(image.id, self._plan.documents[image.id])
        if entries or images:
            disk.persist(self._overlay)
        for index in outdated:
            write_index(self._store, *index)
        self._remove_unlisted(placed_before)
        disk.remove_tree(self._new)
        return changes or Changes(mended=1)

    def _changes(self, entries: Iterable[Entry], images: Iterable[ImageRecord]) -> Changes:
        anew = [entry.id for entry in entries if entry.id in self._records]
        changed = {image.id for image in self._plan.images if self._images_were.get(image.id) != image}
        changed |= {image.id for image in images}
        return Changes(
            layers_added=sum(identity not in self._layers_were for identity in anew),
            layers_changed=sum(identity in self._layers_were for identity in anew),
            images_added=sum(identity not in self._images_were for identity in changed),
            images_changed=sum(identity in self._images_were for identity in changed),
            images_removed=len(self._images_were.keys() - {image.id for image in self._plan.images}),
        )

    def _has_entry(self, entry: Entry) -> bool:
        record, was = self._records.get(entry.id), self._layers_were.get(entry.id)
        if record and (was is None or was.metadata != record.metadata):
            return False
        if record and not self._mend:
            return True
        if entry.tar_split and not disk.is_link(tar_split_path(self._store, entry.id), entry.tar_split):
            return False
        return _is_whole(f"{self._overlay}/{entry.id}", entry)  # of shims below, too, which no index lists

    def _has_documents(self, image: ImageRecord) -> bool:
        was = self._images_were.get(image.id)
        if was is None or was.big_data_digests != image.big_data_digests:
            return False
        return not self._mend or all(
            disk.has_content(f"{self._images}/{image.id}/{name}", content)
            for name, content in self._plan.documents[image.id].items()
        )

    def _unlisted_images(self) -> list[str]:
        """Directories of images that are gone, or that a dead build was about to list."""
        known = {os.path.basename(path) for path in (IMAGES_JSON, IMAGES_LOCK)}
        return sorted(set(disk.names(self._images)) - known - {image.id for image in self._plan.images})

    def _make_ready(self) -> None:
        """The store's directories and locks, without which podman does not start; and a place to make things in."""
        for path in (OVERLAY, f"{OVERLAY}/l", LAYERS, IMAGES, BUILDING):
            if not (self._store / path).is_dir():
                disk.make_directory(f"{self._store}/{path}")
        for path in (LAYERS_LOCK, IMAGES_LOCK):
            if not (self._store / path).exists():
                write_token(self._store / path, b"")
        clear(self._store, keep_directory=True)

    def _placed(self) -> list[str]:
        """The entries of a dead build that layers.json may not list."""
        try:
            return Path(self._new, PLACED).read_text().split()
        except FileNotFoundError:
            return []

    def _place(self, entries: Sequence[Entry], placed_before: Sequence[str]) -> None:
        """New entries, and then those that take the place of others, which may stand on new ones."""
        for entry in entries:
            _make_entry(f"{self._new}/{entry.id}", entry)
        there = {entry.id for entry in entries if os.path.lexists(f"{self._overlay}/{entry.id}")}
        new = [entry.id for entry in entries if entry.id not in there]
        note_placed(self._store, [*placed_before, *(identity for identity in new if identity in self._records)])
        staged = f"{self._new}/link"
        for entry in entries:  # before its directory: what stands on an entry that is there finds it
            disk.replace_link(f"{self._overlay}/l/{entry.link}", f"../{entry.id}/diff", staged)
            tar_split = tar_split_path(self._store, entry.id)
            if entry.tar_split:
                disk.replace_link(tar_split, entry.tar_split, staged)
            elif entry.id in there:
                disk.remove_tree(tar_split)
        for identity in new:
            os.rename(f"{self._new}/{identity}", f"{self._overlay}/{identity}")
        for identity in sorted(there):
            disk.exchange(f"{self._overlay}/{identity}", f"{self._new}/{identity}")

    def _place_documents(self, identity: str, documents: Mapping[str, bytes]) -> None:
        """A listed image keeps its directory, and files that it lists until it does no more. `manifest` comes last:
        whatever it holds is there under its digest, too."""
        directory, staged = f"{self._images}/{identity}", f"{self._new}/{identity}"
        if identity in self._images_were and os.path.isdir(directory):
            for name, content in sorted(documents.items()):
                if not disk.has_content(f"{directory}/{name}", content):
                    disk.replace_file(f"{directory}/{name}", content, staged)
            return
        disk.make_directory(staged)
        for name, content in documents.items():
            disk.write_file(f"{staged}/{name}", content)
        disk.remove_tree(directory)
        os.rename(staged, directory)

    def _remove_unlisted(self, placed_before: Iterable[str]) -> None:
        for identity in set(placed_before) - self._records.keys():
            remove_entry(self._store, identity)
        for name in self._unlisted_images():
            disk.remove_tree(f"{self._images}/{name}")
        for identity, documents in self._plan.documents.items():
            for name in set(disk.names(f"{self._images}/{identity}")) - documents.keys():
                disk.remove_tree(f"{self._images}/{identity}/{name}")


def is_half_done(store: Path) -> bool:
    """Whether a build, or a removal, has begun to change the store, and not ended."""
    return os.path.lexists(f"{store}/{BUILDING}/{PLACED}")


def note_placed(store: Path, ids: Collection[str]) -> None:
    """Says that the store changes now, and which entries are there, or are still there, while layers.json does not
    list them."""
    path = f"{store}/{BUILDING}/{PLACED}"
    disk.replace_file(path, "\n".join(ids).encode(), f"{path}-new")


def write_index(store: Path, path: str, lock: str, content: bytes) -> None:
    """An index and then its lock, below which everything is that it lists."""
    if not disk.has_content(f"{store}/{path}", content):
        disk.replace_file(f"{store}/{path}", content, f"{store}/{BUILDING}/index")
    if read_token(store / lock) != token(content):
        write_token(store / lock, token(content))


def remove_entry(store: Path, identity: str) -> None:
    """Removes an entry that no index lists any more, at once and then for good."""
    link, staged = f"{store}/{OVERLAY}/l/{link_name(identity)}", f"{store}/{BUILDING}/removed"
    for path in (link, tar_split_path(store, identity)):
        if os.path.lexists(path):
            os.unlink(path)
    if os.path.lexists(entry := f"{store}/{OVERLAY}/{identity}"):
        disk.take_away(entry, staged)


def clear(store: Path, keep_directory: bool = False) -> None:
    """Removes what a build was making, but for the list of what it had placed."""
    new = f"{store}/{BUILDING}"
    for name in set(disk.names(new)) - {PLACED}:
        disk.remove_tree(f"{new}/{name}")
    if not keep_directory and os.path.isdir(new) and not disk.names(new):
        os.rmdir(new)


def tar_split_path(store: Path, identity: str) -> str:
    """Where containers/storage looks for what puts a layer's tar together again."""
    return f"{store}/{LAYERS}/{identity}.tar-split.gz"


def _make_entry(path: str, entry: Entry) -> None:
    disk.make_directory(path)
    if isinstance(entry.content, str):
        os.symlink(entry.content, f"{path}/diff")
        if not entry.lower:  # a layer that nothing is below is copied through fuse-overlayfs with this below it
            disk.make_directory(f"{path}/empty")
    else:
        disk.make_directory(f"{path}/diff")
        write_shim(entry.content, os.fsencode(f"{path}/diff"))
    for name, content in _files(entry).items():
        disk.write_file(f"{path}/{name}", content)


def _files(entry: Entry) -> dict[str, bytes]:
    """The files beside an entry's `diff`. podman 5.8 reads the ids and the others the links."""
    files = {"link": entry.link.encode()}
    if entry.lower:
        files["lower"] = ":".join([f"l/{link_name(below)}" for below in entry.lower]).encode()
        files["lower-layers"] = ":".join(entry.lower).encode()
    return files


def _is_whole(path: str, entry: Entry) -> bool:
    """Whether an entry is what it should be; of a shim, whether its root is there."""
    if not all(disk.has_content(f"{path}/{name}", content) for name, content in _files(entry).items()):
        return False
    if isinstance(entry.content, str):
        return disk.is_link(f"{path}/diff", entry.content)
    return os.path.isdir(f"{path}/diff") and not os.path.islink(f"{path}/diff")


def _is_current(store: Path, path: str, lock: str, content: bytes) -> bool:
    return disk.has_content(f"{store}/{path}", content) and read_token(store / lock) == token(content)
