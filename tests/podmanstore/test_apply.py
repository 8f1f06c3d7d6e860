"""A store on the disk: what is written, and what a reader finds beside it."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cvmfsrepo.errors import FailedPrecondition
from podmanstore import disk
from podmanstore.apply import apply
from podmanstore.ids import held_id, shim_id
from podmanstore.lockfiles import building
from podmanstore.plan import plan
from tests import mounting
from tests.podmanstore.building_stores import build, names
from tests.podmanstore.holding import (
    chain,
    contents,
    image,
    layer,
    read_index,
    read_store,
    shim,
    snapshot,
    stack,
    three_images,
)

LOCKS = ("overlay-layers/layers.lock", "overlay-images/images.lock")
EMPTY = {
    "overlay",
    "overlay/l",
    "overlay-layers",
    "overlay-images",
    "overlay-layers/layers.json",
    "overlay-images/images.json",
    *LOCKS,
}


def tokens(store: Path) -> list[bytes]:
    return [(store / lock).read_bytes() for lock in LOCKS]


def test_a_store_is_what_podman_reads(store: Path) -> None:
    """Directories, links, indices and documents; the locks hold 64 bytes; nothing of the build stays."""
    assert str(build(store, three_images())) == "10 layers added, 3 images added"
    assert read_store(store) == names(three_images())
    assert [len(token) for token in tokens(store)] == [64, 64]
    assert sorted(os.listdir(store)) == [".lock", "overlay", "overlay-images", "overlay-layers"]
    plain = three_images()[0].layers[2]
    assert os.readlink(store / "overlay" / held_id(plain.layer) / "diff") == plain.target
    assert os.readlink(store / "overlay-layers" / f"{held_id(plain.layer)}.tar-split.gz") == plain.tar_split
    assert (store / "overlay" / chain(three_images()[0].layers[0])[0] / "diff" / ".cvmfscatalog").is_char_device()


def test_no_images(store: Path) -> None:
    """An empty store is one that podman starts with."""
    assert build(store, [])
    assert set(contents(store)) == {".lock", *EMPTY}
    assert read_store(store) == {}


def test_nothing_is_written_where_nothing_changed(store: Path) -> None:
    """Not even a time of a directory."""
    build(store, three_images())
    before = snapshot(store)
    changes = build(store, three_images()[::-1])
    assert (bool(changes), str(changes)) == (False, "nothing changed")
    assert snapshot(store) == before


def test_the_same_images_make_the_same_bytes(tmp_path: Path) -> None:
    """In whatever directory and order, locks and all."""
    stores = [tmp_path / "one", tmp_path / "other"]
    for store, images in zip(stores, (three_images(), three_images()[::-1]), strict=True):
        build(store, images)
    one, other = map(contents, stores)
    assert one == other


def test_an_image_more(store: Path) -> None:
    """Adds what is new and touches no other entry; both locks change."""
    build(store, three_images()[:1])
    before, tokens_before = snapshot(store), tokens(store)
    assert str(build(store, three_images())) == "4 layers added, 2 images added"
    assert read_store(store) == names(three_images())
    after = snapshot(store)
    changed = {path for path in before if after[path] != before[path]}
    assert {path for path in changed if path.startswith("overlay/")} == {"overlay/l"}
    assert all(was != now for was, now in zip(tokens_before, tokens(store), strict=True))


def test_an_image_less(store: Path) -> None:
    """Goes with its documents; its layers stay, and so does their lock."""
    build(store, three_images())
    layers_lock = tokens(store)[0]
    assert str(build(store, three_images()[1:])) == "1 images removed"
    assert read_store(store) == names(three_images()[1:])
    assert tokens(store)[0] == layers_lock
    assert len(read_index(store, "layers")) == 10
    documents = {path.name for path in (store / "overlay-images").iterdir() if path.is_dir()}
    assert documents == {each.id for each in three_images()[1:]}


def test_a_name_moves_to_another_image(store: Path) -> None:
    """As when a tag is published anew: the old image goes, and the new one has the name."""
    one, other = (image("a", layer("base"), config=text) for text in ("one", "other"))
    build(store, [one])
    assert str(build(store, [other])) == "1 images added, 1 images removed"
    assert [record["id"] for record in read_index(store, "images")] == [other.id]
    assert read_store(store) == names([other])


def test_an_image_with_another_manifest(store: Path) -> None:
    """Keeps its directory, for podman may be reading it; what it lists no more goes."""
    one, other = (image("a", layer("base"), manifest=text) for text in (b"one", b"other"))
    build(store, [one])
    directory = store / "overlay-images" / one.id
    inode, files = directory.stat().st_ino, len(os.listdir(directory))
    assert str(build(store, [other])) == "1 images changed"
    assert read_store(store) == names([other])
    assert (directory.stat().st_ino, len(os.listdir(directory))) == (inode, files)


def test_layers_elsewhere(store: Path) -> None:
    """When the repository is seen under another path, every entry links there, and all stay what they are."""
    build(store, three_images("/one"))
    assert str(build(store, three_images("/other"))) == "6 layers changed"
    assert read_store(store) == names(three_images())
    diffs = [path / "diff" for path in (store / "overlay").iterdir()]
    links = [os.readlink(path) for path in diffs if path.is_symlink()]
    assert {os.path.dirname(link) for link in links} == {"/other"}
    assert not build(store, three_images("/other"))


def test_other_shims(store: Path) -> None:
    """A layer that is surrounded otherwise is made again with all that stand on it; what users' own layers may stand
    on stays."""
    build(store, [image("a", layer("base", white=shim(b"x")), layer("two"))])
    changed = image("a", layer("base", hide=shim(b"other")), layer("two"))
    assert str(build(store, [changed])) == "2 layers changed"
    assert os.listdir(stack(store, chain(*changed.layers)[0])[0]) == ["other"]
    assert (store / "overlay" / shim_id(shim(b"x").key.hex) / "diff" / "x").is_char_device()
    assert read_store(store) == names([changed])


def test_a_directory_is_replaced_where_two_cannot_be_exchanged(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the file system of an open transaction."""

    class Library:
        def renameat2(self, *_: object) -> int:
            return -1

        def syncfs(self, _: int) -> int:
            return 0

    build(store, three_images("/one"))
    monkeypatch.setattr(disk, "_libc", Library())
    monkeypatch.setattr("ctypes.get_errno", lambda: errno.EINVAL)
    build(store, three_images("/other"))
    assert read_store(store) == names(three_images())
    assert os.readlink(store / "overlay" / held_id(three_images()[0].layers[2].layer) / "diff") == "/other/three"


@pytest.mark.parametrize("mask", [0o077, 0o777, 0])
def test_everybody_may_read_a_store(store: Path, mask: int) -> None:
    """Whatever the umask, for rootless users share it; nobody else may lock out a build. Shims have the modes of
    their layers."""
    before = os.umask(mask)
    try:
        build(store, [image("a", layer("base", hide=shim(b".cvmfscatalog", mode=0o701)))])
    finally:
        os.umask(before)
    for path in [store, *store.rglob("*")]:
        mode = path.lstat().st_mode & 0o7777
        if path.name == ".lock":
            assert mode == 0o600
        elif path.name == "diff" and path.is_dir() and not path.is_symlink():
            assert mode == 0o701
        elif not path.is_symlink() and not path.is_char_device():
            assert mode == (0o755 if path.is_dir() else 0o644), path


_BUILDING = """
import pathlib, sys
from podmanstore.lockfiles import building
with building(pathlib.Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.read()
"""


def test_a_build_at_work_keeps_others_out(store: Path) -> None:
    """The other one is told by whom; nothing is waited for. When the first one dies, the kernel lets the next in."""
    command = [sys.executable, "-c", _BUILDING, str(store)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=mounting.PROJECT)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(FailedPrecondition, match=rf"another build is at work on it \(process {other.pid}\)"):
            build(store, three_images())
    finally:
        other.kill()
        other.communicate()
    assert build(store, three_images())


def test_a_store_that_cannot_be_made(tmp_path: Path) -> None:
    """Says where, and what to do."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "store"):
        with pytest.raises(FailedPrecondition, match="name a directory on a writable disk"), building(path):
            pass


def test_a_plan_that_does_not_know_a_listed_layer(store: Path) -> None:
    """Is refused: another build was between it and the store."""
    build(store, three_images())
    with pytest.raises(FailedPrecondition, match="lists 8 layers that this build was planned without"):
        apply(store, plan([image("a", three_images()[0].layers[0])]))
    assert read_store(store) == names(three_images())


@pytest.mark.slow
def test_readers_beside_a_build(store: Path) -> None:
    """Whatever they see in the middle of builds that add, change and remove images is whole."""
    variants = [three_images()[:1], three_images(), three_images("/other")[1:], []]
    build(store, variants[0])
    stop = threading.Event()

    def read() -> int:
        count = 0
        while not stop.is_set():
            count += read_once(store) in [names(images) for images in variants]
        return count

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for number in range(40):
                build(store, variants[number % 4])
        finally:
            stop.set()
        assert min(reader.result() for reader in readers) > 5


def read_once(store: Path) -> dict[str, list[str]] | None:
    """As `read_store`; None where the index was replaced meanwhile, which makes podman read it again."""
    before = stamp(store)
    try:
        found = read_store(store)
    except FileNotFoundError:
        if stamp(store) == before:
            raise
        return None
    return found if stamp(store) == before else None


def stamp(store: Path) -> tuple[int, int]:
    """Tells an index from the one that takes its place; inode numbers alone come back."""
    status = (store / "overlay-images" / "images.json").stat()
    return status.st_ino, status.st_ctime_ns


def test_a_damaged_entry(store: Path) -> None:
    """Is trusted by a build, and made again by one that mends; what is whole is not touched."""
    build(store, three_images())
    whole = contents(store)
    base, three = (held.layer for held in (three_images()[0].layers[0], three_images()[0].layers[2]))
    (store / "overlay" / held_id(base) / "link").unlink()
    (store / "overlay" / held_id(three) / "diff").unlink()
    (store / "overlay" / chain(*three_images()[0].layers)[2] / "lower").write_text("l/NOTHING")
    next((store / "overlay-images").glob("*/manifest")).write_bytes(b"")
    assert not build(store, three_images())
    kept = snapshot(store / "overlay" / chain(*three_images()[0].layers)[1])
    assert str(build(store, three_images(), mend=True)) == "3 layers changed, 1 images changed"
    assert contents(store) == whole
    assert snapshot(store / "overlay" / chain(*three_images()[0].layers)[1]) == kept
    assert not build(store, three_images(), mend=True)


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("content", [None, b"", b"short", b"x" * 64, b"x" * 100])
def test_a_lock_that_does_not_fit_its_index(store: Path, lock: str, content: bytes | None) -> None:
    """As after a crash between the two: it is set, for a running podman would never see the index."""
    build(store, three_images())
    whole = contents(store)
    (store / lock).unlink()
    if content is not None:
        (store / lock).write_bytes(content)
        (store / lock).chmod(0o644)
    assert str(build(store, three_images())) == "1 leftovers mended"
    assert contents(store) == whole


def test_a_lock_changes_in_place(store: Path) -> None:
    """podman holds it open; one that waits for the file's lock is not waited for."""
    build(store, three_images()[:1])
    with open(store / LOCKS[1], "rb") as held:
        fcntl.lockf(held, fcntl.LOCK_SH)
        before = held.read()
        build(store, three_images())
        held.seek(0)
        assert (len(before), len(now := held.read())) == (64, 64)
        assert now != before


@pytest.mark.bench
def test_a_large_store(store: Path) -> None:
    """A first build of 8,000 chains takes seconds, one without changes tenths of one."""
    shared = [layer(f"shared {number}") for number in range(400)]
    many = []
    for number in range(1000):
        below = [shared[(number // 10 + depth * 37) % 400] for depth in range(12)]
        many.append(image(f"image {number}", *below, *(layer(f"{number} {depth}") for depth in range(8))))
    started = time.monotonic()
    build(store, many)
    first = time.monotonic() - started
    started = time.monotonic()
    assert not build(store, many)
    again = time.monotonic() - started
    print(f"first {first:.2f} s, again {again:.2f} s")
    assert first < 60, "ten times what it takes"
    assert again < first
