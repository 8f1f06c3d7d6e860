"""The rest of the contract: labels, lists, usage and cleanup."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from cvmfsrepo.errors import InvalidArgument
from snapshotter.snapshots import Info, Kind, Usage
from tests.suites.contract import Verbs, committed, fresh, of_kind, upper_of


class RecordContract:
    """Update, List, Usage and Cleanup, with the fixtures of `SnapshotterContract`."""

    @pytest.mark.parametrize("kind", list(Kind))
    @pytest.mark.parametrize(
        ("paths", "given", "expected"),
        [
            ([], {"b": "2"}, {"b": "2"}),
            (["labels"], {"b": "2"}, {"b": "2"}),
            (["labels"], {}, {}),
            (["labels.b"], {"a": "9", "b": "2"}, {"a": "1", "b": "2", "d.e/f": "1"}),
            (["labels.a"], {"a": ""}, {"d.e/f": "1"}),
            (["labels.a"], {}, {"d.e/f": "1"}),
            (["labels.d.e/f"], {"d.e/f": "2"}, {"a": "1", "d.e/f": "2"}),
            (["labels.a", "labels.g"], {"a": "2", "g": "2"}, {"a": "2", "d.e/f": "1", "g": "2"}),
            (["labels.none"], {}, {"a": "1", "d.e/f": "1"}),
        ],
    )
    def test_update(
        self, verbs: Verbs, kind: Kind, paths: Sequence[str], given: Mapping[str, str], expected: Mapping[str, str]
    ) -> None:
        """No mask and `labels` replace all labels, `labels.<name>` one; an empty value deletes it. Only the time of
        the update changes besides."""
        name = of_kind(verbs, kind, labels={"a": "1", "d.e/f": "1"})
        before = verbs.stat(name)
        answer = verbs.update(Info(Kind.VIEW, name, "another-parent", 1, 1, given), paths)
        assert answer == verbs.stat(name)
        assert answer.labels == expected
        assert answer.updated > before.updated
        assert (answer.kind, answer.parent, answer.created) == (before.kind, before.parent, before.created)

    @pytest.mark.parametrize("path", ["name", "parent", "kind", "created", "labelsx", "labels.", "Labels", ""])
    def test_update_of_another_field(self, verbs: Verbs, path: str) -> None:
        """Only labels can be changed: InvalidArgument, also where a good path stands before it."""
        name = committed(verbs, labels={"a": "1"})
        before = verbs.stat(name)
        with pytest.raises(InvalidArgument):
            verbs.update(Info(Kind.COMMITTED, name, "", 0, 0, {"a": "2"}), ["labels.a", path])
        assert verbs.stat(name) == before

    def test_list_answers_every_snapshot(self, verbs: Verbs) -> None:
        """No filter means all, each as Stat shows it, in the order of their making."""
        names = [of_kind(verbs, kind, labels={"a": kind.label}) for kind in Kind]
        infos = list(verbs.walk())
        assert [info for info in infos if info.name in names] == [verbs.stat(name) for name in names]

    def test_list_with_filters(self, verbs: Verbs) -> None:
        """A comma means and, several filters mean or; names, parents, kinds and labels can be asked for."""
        mark = fresh("mark")
        base = committed(verbs, labels={"mark": mark, "n": "0"})
        child = committed(verbs, base, labels={"mark": mark, "n": "1"})
        active = of_kind(verbs, Kind.ACTIVE, base, {"mark": mark})
        view = of_kind(verbs, Kind.VIEW, child, {"mark": mark})
        mine = f"labels.mark=={mark}"
        wanted = {
            (mine,): {base, child, active, view},
            (f"{mine},kind==committed",): {base, child},
            (f"{mine},kind==active", f"{mine},kind==view"): {active, view},
            (f'{mine},parent==""',): {base},
            (f"parent=={base}",): {child, active},
            (f"name=={view}",): {view},
            (f"{mine},labels.n",): {base, child},
            (f"{mine},labels.n!=1",): {base, active, view},
            (f'{mine},labels."n"~=/^[12]$/',): {child},
            (f"{mine},labels.n==1,kind==view",): set(),
        }
        assert {filters: {info.name for info in verbs.walk(filters)} for filters in wanted} == wanted

    @pytest.mark.parametrize("text", ["name==", "=x", "name==a b", 'name=="', "name=a"])
    def test_list_with_a_bad_filter(self, verbs: Verbs, text: str) -> None:
        """InvalidArgument, before anything is listed."""
        with pytest.raises(InvalidArgument):
            list(verbs.walk([text]))

    def test_a_walk_can_be_interleaved_with_other_verbs(self, verbs: Verbs) -> None:
        """While a list is read, its snapshots can be looked at and removed and new ones made and seen."""
        mark = fresh("mark")
        for _ in range(3):
            committed(verbs, labels={"mark": mark})
        for info in verbs.walk([f"labels.mark=={mark}"]):
            key = of_kind(verbs, Kind.ACTIVE, info.name)
            assert verbs.stat(key).parent == verbs.stat(info.name).name
            verbs.remove(key)
            verbs.remove(info.name)
        assert list(verbs.walk([f"labels.mark=={mark}"])) == []

    def test_usage_of_an_active_snapshot_is_measured(self, verbs: Verbs) -> None:
        """It grows and shrinks as the container writes; a hard link takes nothing."""
        key = fresh("key")
        upper = upper_of(verbs.prepare(key, "", {}))
        empty = verbs.usage(key)
        (upper / "file").write_bytes(b"x" * 100_000)
        (upper / "link").hardlink_to(upper / "file")
        full = verbs.usage(key)
        assert empty.inodes == 1
        assert full.inodes == 2
        assert full.size - empty.size >= 100_000
        (upper / "file").unlink()
        assert verbs.usage(key) == full
        (upper / "link").unlink()
        assert verbs.usage(key).inodes == 1

    def test_usage_of_a_committed_snapshot_is_that_of_its_commit(self, verbs: Verbs) -> None:
        """Without its parent's, and without a look at the disk."""
        base, key, name = committed(verbs, file="base"), fresh("key"), fresh("layer")
        upper = upper_of(verbs.prepare(key, base, {}))
        (upper / "file").write_bytes(b"x" * 5000)
        before = verbs.usage(key)
        verbs.commit(name, key, {})
        (upper / "later").write_bytes(b"x" * 5000)
        assert verbs.usage(name) == before
        assert before.inodes == 2

    def test_usage_of_a_view(self, verbs: Verbs) -> None:
        """A view takes nothing to speak of."""
        assert verbs.usage(of_kind(verbs, Kind.VIEW)) in (Usage(), Usage(4096, 1))

    def test_cleanup_removes_directories_without_a_record(self, verbs: Verbs, root: Path) -> None:
        """Such as a crash leaves: with a number that was given. Nothing else: what is not named by a number, or by one
        that was never given, was not made by Prepare or is being staged."""
        verbs.cleanup()
        removed, key, snapshots = of_kind(verbs, Kind.ACTIVE), of_kind(verbs, Kind.ACTIVE), root / "snapshots"
        orphan = upper_of(verbs.mounts(removed)).parent
        verbs.remove(removed)
        needed = set(snapshots.iterdir())
        assert orphan not in needed
        (orphan / "fs" / "deep").mkdir(parents=True)
        (orphan / "fs" / "deep" / "file").write_text("x")
        strangers = {snapshots / "new-staged", snapshots / "999999"}
        for stranger in strangers:
            stranger.mkdir()
        verbs.cleanup()
        assert set(snapshots.iterdir()) == needed | strangers
        for stranger in strangers:
            stranger.rmdir()
        assert upper_of(verbs.mounts(key)).is_dir()
