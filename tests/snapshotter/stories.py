"""What a node is doing when it is killed: calls one after the other, each of which can be told again."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import AlreadyExists, ContractError, NotFound
from snapshotter.backup import BACKUP_ID
from snapshotter.config import Config
from snapshotter.root import DATABASE
from snapshotter.server import opened
from snapshotter.snapshots import Info, Kind
from snapshotter.snapshotter import Snapshotter, remote_name
from tests.snapshotter.layers import HandMade, pull
from tests.suites.contract import upper_of

Call = tuple[str, Callable[[Snapshotter], object]]
BASE, TOP, PLAIN = (Digest.of(word) for word in (b"base", b"top", b"plain"))


def publish(root: Path) -> None:
    """Layers with deletions at several depths, with and without a record, and one without deletions."""
    made = HandMade(root)
    made.add("base", {"etc/a": "a", "usr/b": "b", ".wh.gone": "", "usr/.wh.c": ""})
    made.add("top", {"top": "t", "etc/.wh.a": "", "usr/.wh..wh..opq": ""})
    made.add("plain")
    made.record(PLAIN)


def nothing(*_: object) -> None:
    """A story that needs no preparation, or no further look at its end."""


@dataclass(frozen=True, slots=True)
class Story:
    """Named calls; `repeated` is what the call that was interrupted may raise when it is made again. `prepare_root`
    makes the state that the story starts from, `check` looks at the end."""

    calls: list[Call]
    repeated: tuple[type[ContractError], ...] = (AlreadyExists, NotFound)
    publish: Callable[[Path], None] = publish
    prepare_root: Callable[[Path, Config], None] = nothing
    check: Callable[[Path, Snapshotter], None] = nothing


def prepare(key: str, parent: str = "") -> Call:
    return f"Prepare {key}", lambda verbs: verbs.prepare(key, parent, {"story": key})


def view(key: str, parent: str) -> Call:
    return f"View {key}", lambda verbs: verbs.view(key, parent, {})


def write(key: str) -> Call:
    return f"write below {key}", lambda verbs: (upper_of(verbs.mounts(key)) / "deep" / "er").mkdir(
        parents=True, exist_ok=True
    )


def commit(name: str, key: str) -> Call:
    return f"Commit {name}", lambda verbs: verbs.commit(name, key, {"by": "story"})


def remove(name: str) -> Call:
    return f"Remove {name[:12]}", lambda verbs: verbs.remove(name)


def update(name: str) -> Call:
    return f"Update {name}", lambda verbs: verbs.update(Info(Kind.ACTIVE, name, "", 0, 0, {"new": "1"}), [])


def cleanup() -> Call:
    return "Cleanup", lambda verbs: verbs.cleanup()


def serve(target: str, parent: str, layer: Digest) -> Call:
    """The Prepare of a pull, which a repository serves."""

    def call(verbs: Snapshotter) -> None:
        with pytest.raises(AlreadyExists, match="is served"):
            verbs.prepare(f"extract {target}", parent, pull(target, layer))

    return f"Prepare of layer {target}", call


def orphan(number: int) -> Call:
    """What a dead process leaves of a snapshot that it was removing."""

    def call(verbs: Snapshotter) -> None:
        for path in ("fs/deep/er", "work/work"):
            os.makedirs(f"{verbs._disk.directory(number)}/{path}", exist_ok=True)

    return f"orphan {number}", call


FIRST, SECOND = remote_name("base", ""), remote_name("top", remote_name("base", ""))


def make_restored(root: Path, config: Config) -> None:
    """A root whose database was replaced by a backup that knows one of its three snapshots."""
    with opened(config) as verbs:
        verbs.prepare("old", "", {})
        verbs._store.back_up(root.with_name("backup"), BACKUP_ID)
        serve("base", "", BASE)[1](verbs)
        (upper_of(verbs.prepare("new", FIRST, {})) / "file").write_text("precious")
    root.with_name("backup").rename(root / DATABASE)


def check_kept(root: Path, verbs: Snapshotter) -> None:
    """The new snapshots are there with all that they stand on, and their numbers were not given again."""
    assert (root / "snapshots" / "3" / "fs" / "file").read_text() == "precious"
    assert os.listdir(root / "snapshots" / "2" / "h")
    assert verbs._store.get("later").id > 3


STORIES = {
    "local": Story(
        [
            prepare("a"), write("a"), commit("A", "a"), prepare("b", "A"), view("v", "A"), update("b"), write("b"),
            commit("B", "b"), prepare("c", "B"), remove("v"), remove("c"), remove("B"), remove("A"),
        ]
    ),
    "remote": Story(
        [
            serve("base", "", BASE), serve("top", FIRST, TOP), serve("plain", "", PLAIN), prepare("c", SECOND),
            write("c"), commit("C", "c"), remove("C"), remove(SECOND), serve("top", FIRST, TOP),
        ]
    ),
    "cleanup": Story(
        [
            prepare("a"), prepare("b"), write("b"), remove("a"), orphan(1), cleanup(), serve("base", "", BASE),
            remove(FIRST), orphan(3), cleanup(), cleanup(),
        ]
    ),
    "restored": Story([prepare("later"), cleanup()], prepare_root=make_restored, check=check_kept),
}  # fmt: skip
