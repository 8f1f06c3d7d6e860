"""containerd's snapshotter contract as a suite: subclasses say which implementation it runs over.

Rules and error codes are those of containerd's metadata store and its overlayfs snapshotter. Names are fresh in each
test, so one implementation may serve all of them.
"""

import itertools
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pytest

from cvmfsrepo.errors import AlreadyExists, ContractError, FailedPrecondition, InvalidArgument, NotFound
from snapshotter.snapshots import Info, Kind, Mount, Usage
from tests import mounting

_numbers = itertools.count()


class Verbs(Protocol):
    """The ten verbs, in process or over a socket."""

    def prepare(self, key: str, parent: str, labels: Mapping[str, str]) -> tuple[Mount, ...]: ...
    def view(self, key: str, parent: str, labels: Mapping[str, str]) -> tuple[Mount, ...]: ...
    def mounts(self, key: str) -> tuple[Mount, ...]: ...
    def commit(self, name: str, key: str, labels: Mapping[str, str], parent: str = "") -> None: ...
    def remove(self, key: str) -> None: ...
    def stat(self, key: str) -> Info: ...
    def update(self, info: Info, paths: Sequence[str]) -> Info: ...
    def walk(self, filters: Sequence[str] = ()) -> Iterator[Info]: ...
    def usage(self, key: str) -> Usage: ...
    def cleanup(self) -> None: ...


def fresh(word: str) -> str:
    """A name that no other test has, shaped like the keys that containerd sends."""
    return f"k8s.io/{next(_numbers)}/{word}"


def committed(verbs: Verbs, parent: str = "", labels: Mapping[str, str] | None = None, file: str = "") -> str:
    """A new committed snapshot, holding one file of that name if one is given."""
    key, name = fresh("extract"), fresh("layer")
    mounts = verbs.prepare(key, parent, {})
    if file:
        (upper_of(mounts) / file).write_text(file)
    verbs.commit(name, key, labels or {})
    return name


def of_kind(verbs: Verbs, kind: Kind, parent: str = "", labels: Mapping[str, str] | None = None) -> str:
    """A new snapshot of any kind."""
    if kind is Kind.COMMITTED:
        return committed(verbs, parent, labels)
    key = fresh(kind.label)
    (verbs.view if kind is Kind.VIEW else verbs.prepare)(key, parent, labels or {})
    return key


def option(mounts: Sequence[Mount], name: str) -> str:
    """The value of one option of a snapshot's only mount, or ""."""
    (mount,) = mounts
    return next((text.removeprefix(f"{name}=") for text in mount.options if text.startswith(f"{name}=")), "")


def upper_of(mounts: Sequence[Mount]) -> Path:
    """The directory that a writable mount writes to."""
    (mount,) = mounts
    return Path(mount.source if mount.type == "bind" else option(mounts, "upperdir"))


def lowers_of(mounts: Sequence[Mount]) -> list[Path]:
    """The lower directories of an overlay mount, topmost first. The paths hold no character that needs an escape."""
    return [Path(lower) for lower in option(mounts, "lowerdir").split(":")]


class SnapshotterContract:
    """Every rule of the contract. A subclass has the fixtures `verbs` and `root`, the state directory."""

    @pytest.fixture
    def verbs(self) -> Verbs:
        raise LookupError("a subclass says what the suite runs over")

    @pytest.fixture
    def root(self) -> Path:
        raise LookupError("a subclass says where the state is")

    @pytest.mark.parametrize("kind", [Kind.ACTIVE, Kind.VIEW])
    def test_a_parent_has_to_exist(self, verbs: Verbs, kind: Kind) -> None:
        """Prepare and View on an unknown parent are NotFound and make nothing."""
        key = fresh("key")
        with pytest.raises(NotFound):
            (verbs.view if kind is Kind.VIEW else verbs.prepare)(key, "no-such-parent", {})
        with pytest.raises(NotFound):
            verbs.stat(key)

    @pytest.mark.parametrize("kind", [Kind.ACTIVE, Kind.VIEW])
    @pytest.mark.parametrize("parent", [Kind.ACTIVE, Kind.VIEW])
    def test_a_parent_has_to_be_committed(self, verbs: Verbs, kind: Kind, parent: Kind) -> None:
        """An active snapshot or a view under a new one is InvalidArgument."""
        with pytest.raises(InvalidArgument, match="not committed"):
            of_kind(verbs, kind, of_kind(verbs, parent))

    @pytest.mark.parametrize("kind", [Kind.ACTIVE, Kind.VIEW])
    @pytest.mark.parametrize("taken", list(Kind))
    def test_a_key_is_taken_once(self, verbs: Verbs, kind: Kind, taken: Kind) -> None:
        """Keys and names share one name space; a second Prepare or View of one is AlreadyExists and changes nothing."""
        key = of_kind(verbs, taken, labels={"a": "1"})
        before = verbs.stat(key)
        with pytest.raises(AlreadyExists):
            (verbs.view if kind is Kind.VIEW else verbs.prepare)(key, "", {"a": "2"})
        assert verbs.stat(key) == before

    @pytest.mark.parametrize("kind", list(Kind))
    @pytest.mark.parametrize("with_parent", [False, True])
    def test_stat_says_what_was_made(self, verbs: Verbs, kind: Kind, with_parent: bool) -> None:
        """Kind, name, parent and labels as given; created and updated are the same moment: now."""
        parent, labels = committed(verbs) if with_parent else "", {"containerd.io/snapshot/x": "ü", "empty": ""}
        earliest = time.time_ns()
        info = verbs.stat(of_kind(verbs, kind, parent, labels))
        assert (info.kind, info.parent, dict(info.labels)) == (kind, parent, labels)
        assert earliest <= info.created == info.updated <= time.time_ns()

    def test_mount_of_an_active_snapshot_on_nothing(self, verbs: Verbs) -> None:
        """A writable bind of its own empty directory."""
        (mount,) = verbs.prepare(fresh("key"), "", {})
        assert (mount.type, mount.options) == ("bind", ("rw", "rbind"))
        assert list(Path(mount.source).iterdir()) == []

    def test_mount_of_an_active_snapshot_on_a_parent(self, verbs: Verbs) -> None:
        """An overlay of the parent with an upper and a work directory on one file system, both there."""
        mounts = verbs.prepare(fresh("key"), committed(verbs, file="base"), {})
        assert (mounts[0].type, mounts[0].source) == ("overlay", "overlay")
        assert [lower / "base" for lower in lowers_of(mounts) if (lower / "base").exists()]
        work = Path(option(mounts, "workdir"))
        assert upper_of(mounts).is_dir()
        assert work.is_dir()
        assert work.parent == upper_of(mounts).parent

    def test_mount_of_a_view(self, verbs: Verbs) -> None:
        """Read-only: a bind of nothing or of the only parent, else an overlay without an upper directory."""
        base = committed(verbs, file="base")
        top = committed(verbs, base, file="top")
        (empty,) = verbs.view(fresh("view"), "", {})
        (one,) = verbs.view(fresh("view"), base, {})
        two = verbs.view(fresh("view"), top, {})
        assert (empty.type, empty.options, list(Path(empty.source).iterdir())) == ("bind", ("ro", "rbind"), [])
        assert (one.type, one.options, (Path(one.source) / "base").exists()) == ("bind", ("ro", "rbind"), True)
        assert [[path.name for path in lower.iterdir()] for lower in lowers_of(two)] == [["top"], ["base"]]
        assert option(two, "upperdir") == option(two, "workdir") == ""

    @pytest.mark.parametrize("depth", [0, 1, 3])
    def test_mounts_answers_what_prepare_and_view_answered(self, verbs: Verbs, depth: int) -> None:
        """Mounts can be asked again at any time."""
        parent = ""
        for _ in range(depth):
            parent = committed(verbs, parent)
        key, view = fresh("key"), fresh("view")
        assert verbs.prepare(key, parent, {}) == verbs.mounts(key)
        assert verbs.view(view, parent, {}) == verbs.mounts(view)

    def test_mounts_of_what_cannot_be_mounted(self, verbs: Verbs) -> None:
        """An unknown snapshot is NotFound, a committed one FailedPrecondition."""
        with pytest.raises(NotFound):
            verbs.mounts(fresh("none"))
        with pytest.raises(FailedPrecondition):
            verbs.mounts(committed(verbs))

    def test_lowers_stand_topmost_first(self, verbs: Verbs) -> None:
        """The order of overlayfs: the parent first, the base last."""
        parent = ""
        for number in range(5):
            parent = committed(verbs, parent, file=str(number))
        for mounts in (verbs.prepare(fresh("key"), parent, {}), verbs.view(fresh("view"), parent, {})):
            assert [path.name for lower in lowers_of(mounts) for path in lower.iterdir()] == list("43210")

    def test_a_hundred_and_twenty_eight_layers(self, verbs: Verbs) -> None:
        """A chain as long as containerd's own suite makes has every layer in its options, once."""
        parent = ""
        for _ in range(128):
            parent = committed(verbs, parent)
        lowers = lowers_of(verbs.prepare(fresh("key"), parent, {}))
        assert len(set(lowers)) == len(lowers) == 128

    @pytest.mark.root
    def test_a_hundred_and_twenty_eight_layers_are_mounted(self, verbs: Verbs, tmp_path: Path) -> None:
        """The options of such a chain fit the kernel's page the way that containerd compacts them."""
        parent = ""
        for number in range(128):
            parent = committed(verbs, parent, file=f"{number}")
        (mount,) = verbs.prepare(fresh("key"), parent, {})
        with mounting.mounted(mount.type, mount.source, tmp_path / "mnt", mount.options) as tree:
            assert {path.name for path in tree.iterdir()} == {str(number) for number in range(128)}
            (tree / "new").write_text("x")

    def test_the_root_directory_takes_after_the_parents(self, verbs: Verbs) -> None:
        """Mode of the parent's root is the new upper's, for the topmost directory of a merge decides; else 0755."""
        key, name = fresh("key"), fresh("layer")
        upper = upper_of(verbs.prepare(key, "", {}))
        assert upper.stat().st_mode & 0o7777 == 0o755
        upper.chmod(0o1731)
        verbs.commit(name, key, {})
        assert upper_of(verbs.prepare(fresh("key"), name, {})).stat().st_mode & 0o7777 == 0o1731

    @pytest.mark.root
    def test_the_root_directory_has_the_parents_owner(self, verbs: Verbs) -> None:
        """Owner and group too: an image's root need not be root's."""
        key, name = fresh("key"), fresh("layer")
        upper = upper_of(verbs.prepare(key, "", {}))
        os.chown(upper, 1000, 2000)
        verbs.commit(name, key, {})
        status = upper_of(verbs.prepare(fresh("key"), name, {})).stat()
        assert (status.st_uid, status.st_gid) == (1000, 2000)

    def test_commit_makes_a_committed_snapshot_of_an_active_one(self, verbs: Verbs) -> None:
        """The key is gone, its content and parent are the name's, and the times are those of the commit."""
        base, key, name = committed(verbs), fresh("key"), fresh("layer")
        (upper_of(verbs.prepare(key, base, {})) / "file").write_text("x")
        active = verbs.stat(key)
        verbs.commit(name, key, {})
        info = verbs.stat(name)
        assert (info.kind, info.name, info.parent) == (Kind.COMMITTED, name, base)
        assert active.created < info.created == info.updated
        with pytest.raises(NotFound):
            verbs.stat(key)
        lower = next(lower for lower in lowers_of(verbs.prepare(fresh("key"), name, {})) if (lower / "file").exists())
        assert (lower / "file").read_text() == "x"

    def test_commit_replaces_labels(self, verbs: Verbs) -> None:
        """Labels of the active snapshot are not inherited: those of the request are all."""
        key, name, other = fresh("key"), fresh("layer"), fresh("layer")
        verbs.prepare(key, "", {"old": "1", "both": "1"})
        verbs.commit(name, key, {"both": "2", "new": "2"})
        assert verbs.stat(name).labels == {"both": "2", "new": "2"}
        verbs.prepare(key, "", {"old": "1"})
        verbs.commit(other, key, {})
        assert verbs.stat(other).labels == {}

    @pytest.mark.parametrize("taken", list(Kind))
    def test_commit_to_a_taken_name(self, verbs: Verbs, taken: Kind) -> None:
        """AlreadyExists, whatever has the name, and the active snapshot stays as it was."""
        key, name = of_kind(verbs, Kind.ACTIVE, labels={"a": "1"}), of_kind(verbs, taken)
        before = verbs.stat(key)
        with pytest.raises(AlreadyExists):
            verbs.commit(name, key, {"a": "2"})
        assert verbs.stat(key) == before

    def test_commit_to_its_own_key(self, verbs: Verbs) -> None:
        """The key is a taken name as any other."""
        key = of_kind(verbs, Kind.ACTIVE)
        with pytest.raises(AlreadyExists):
            verbs.commit(key, key, {})
        assert verbs.stat(key).kind is Kind.ACTIVE

    @pytest.mark.parametrize(("kind", "error"), [(Kind.VIEW, FailedPrecondition), (Kind.COMMITTED, FailedPrecondition)])
    def test_commit_takes_active_snapshots_only(self, verbs: Verbs, kind: Kind, error: type[ContractError]) -> None:
        """A view is FailedPrecondition, as is what is committed already."""
        with pytest.raises(error):
            verbs.commit(fresh("layer"), of_kind(verbs, kind), {})

    def test_commit_of_an_unknown_key(self, verbs: Verbs) -> None:
        """NotFound."""
        with pytest.raises(NotFound):
            verbs.commit(fresh("layer"), fresh("none"), {})

    def test_commit_gives_a_parent_to_one_that_has_none(self, verbs: Verbs) -> None:
        """containerd's `rebase`: layers unpacked side by side are chained at their commit."""
        base, key, name = committed(verbs, file="base"), fresh("key"), fresh("layer")
        verbs.prepare(key, "", {})
        verbs.commit(name, key, {}, base)
        assert verbs.stat(name).parent == base
        assert len(lowers_of(verbs.view(fresh("view"), name, {}))) == 2
        with pytest.raises(FailedPrecondition):
            verbs.remove(base)

    def test_commit_with_the_parent_that_it_has(self, verbs: Verbs) -> None:
        """An equal parent is fine, another one is InvalidArgument and changes nothing."""
        base, other, key, name = committed(verbs), committed(verbs), fresh("key"), fresh("layer")
        verbs.prepare(key, base, {})
        with pytest.raises(InvalidArgument):
            verbs.commit(name, key, {}, other)
        assert verbs.stat(key).parent == base
        verbs.commit(name, key, {}, base)
        assert verbs.stat(name).parent == base

    def test_commit_on_a_parent_that_cannot_be_one(self, verbs: Verbs) -> None:
        """An unknown one is NotFound, one that is not committed FailedPrecondition; itself is not committed."""
        key, active = of_kind(verbs, Kind.ACTIVE), of_kind(verbs, Kind.ACTIVE)
        with pytest.raises(NotFound):
            verbs.commit(fresh("layer"), key, {}, "no-such-parent")
        for parent in (active, key):
            with pytest.raises(FailedPrecondition):
                verbs.commit(fresh("layer"), key, {}, parent)
        assert verbs.stat(key).parent == ""

    @pytest.mark.parametrize("kind", list(Kind))
    def test_remove(self, verbs: Verbs, root: Path, kind: Kind) -> None:
        """The record and the directory are gone; the name is free again and starts empty."""
        before = set((root / "snapshots").iterdir())
        key = of_kind(verbs, kind)
        verbs.remove(key)
        assert set((root / "snapshots").iterdir()) == before
        with pytest.raises(NotFound):
            verbs.remove(key)
        assert list(upper_of(verbs.prepare(key, "", {})).iterdir()) == []

    @pytest.mark.parametrize("child", list(Kind))
    def test_remove_of_one_with_children(self, verbs: Verbs, child: Kind) -> None:
        """FailedPrecondition while anything stands on it; fine afterwards."""
        base = committed(verbs)
        key = of_kind(verbs, child, base)
        with pytest.raises(FailedPrecondition, match=re.escape(key)):
            verbs.remove(base)
        verbs.remove(key)
        verbs.remove(base)

    def test_unknown_names(self, verbs: Verbs) -> None:
        """Stat, Usage, Remove and Update of an unknown snapshot are NotFound."""
        name = fresh("none")
        with pytest.raises(NotFound):
            verbs.stat(name)
        with pytest.raises(NotFound):
            verbs.usage(name)
        with pytest.raises(NotFound):
            verbs.remove(name)
        with pytest.raises(NotFound):
            verbs.update(Info(Kind.COMMITTED, name, "", 0, 0), [])
