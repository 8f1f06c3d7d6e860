"""Whole trees from records alone: what a person says of the less usual cases."""

from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.tree import Entry
from publisher.flat.flatten import Over, Tree, flatten
from tests.images.tarlayer import Dir, File, Hardlink, Whiteout, layer_tar
from tests.publisher.flat.trees import Shelf, differences, oracle_tree

LOW, HIGH = Digest.of(b"low"), Digest.of(b"high")
ROOT = Entry(b"", 0o40755)


def file(path: bytes, group: int = 0) -> Entry:
    return Entry(path, 0o100644, group=group)


def groups(tree: Tree) -> dict[bytes, int]:
    return {path: placed.entry.group for path, placed in tree.items() if placed.entry.group}


def test_a_file_comes_from_the_topmost_layer_that_has_it() -> None:
    """What is replaced comes from above, what is not from below."""
    tree = flatten([Over([ROOT, file(b"a"), file(b"b")], LOW), Over([ROOT, file(b"a")], HIGH)])
    assert {path: placed.layer for path, placed in tree.items() if path} == {b"a": HIGH, b"b": LOW}


def test_hard_links_are_those_that_are_left() -> None:
    """Of three names one is replaced and two stay one file; of two names one is deleted and none is a link."""
    names = [file(b"a", 1), file(b"b", 1), file(b"c", 1), file(b"x", 2), file(b"y", 2)]
    tree = flatten([Over([ROOT, *names], LOW), Over([ROOT, file(b"b")], HIGH, whiteouts=[b"x"])])
    assert groups(tree) == {b"a": 1, b"c": 1}


def test_groups_of_two_layers_are_kept_apart() -> None:
    """Each record numbers its groups from 1; in the whole tree they are different files."""
    tree = flatten([Over([ROOT, file(b"a", 1), file(b"c", 1)], LOW), Over([ROOT, file(b"b", 1), file(b"d", 1)], HIGH)])
    assert groups(tree) == {b"a": 1, b"c": 1, b"b": 2, b"d": 2}


def test_a_tree_is_sorted_and_marks_no_directory_as_implied() -> None:
    """It is what stands on the disk, whatever a tar listed."""
    implied = Entry(b"d", 0o40755, implied=True, early=True)
    tree = flatten([Over([ROOT, implied, file(b"d/x"), file(b"d-e")], LOW)])
    assert list(tree) == sorted(tree)
    assert not tree[b"d"].entry.implied


def test_a_deletion_below_a_file_deletes_nothing() -> None:
    """A marker of a name below what is no directory is about nothing."""
    tree = flatten([Over([ROOT, file(b"a")], LOW), Over([ROOT], HIGH, whiteouts=[b"a/b"], opaques=[b"a", b"n", b""])])
    assert set(tree) == {b"", b"a"}


@pytest.mark.root
def test_a_layer_that_stands_twice_is_applied_twice(tmp_path: Path) -> None:
    """What the layer between deleted and replaced is there again."""
    low = layer_tar([Dir("d", mode=0o700), File("d/a", b"1"), Hardlink("d/b", "d/a"), File("e")])
    high = layer_tar([Dir("d", mode=0o711), Whiteout("d/a"), File("d/b", b"22"), Whiteout("e"), File("f")])
    shelf = Shelf(tmp_path)
    expected, undated = oracle_tree([low, high, low], tmp_path / "truth")
    found = shelf.write(shelf.tree(shelf.add([low, high, low])), tmp_path / "flat")
    assert differences(expected, found, undated) == []


@pytest.mark.root
def test_a_root_that_a_tar_makes_setgid_gives_its_group_to_nobody(tmp_path: Path) -> None:
    """A pull passes over a tar's entry of the root."""
    tars = [layer_tar([Dir(".", mode=0o2777, uid=5, gid=5, xattrs={"user.x": b"1"}), File("d/x")])]
    shelf = Shelf(tmp_path)
    expected, undated = oracle_tree(tars, tmp_path / "truth")
    assert differences(expected, shelf.write(shelf.tree(shelf.add(tars)), tmp_path / "flat"), undated) == []
