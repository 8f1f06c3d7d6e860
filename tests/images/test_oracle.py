"""The oracle against a person, against umoci, and on random stacks; against a real pull in `test_pull`."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings

from tests.engines import debs
from tests.examples import examples
from tests.images import oracle
from tests.images.nasty import ALL
from tests.images.ocilayout import write_image
from tests.images.stack import Layers, Stack
from tests.images.strategies import stacks, stacks_equal_to_pull
from tests.images.tarlayer import Dir, File, Opaque, Symlink, Whiteout, layer_tar
from tests.images.treefacts import Tree, differences, read_tree

pytestmark = pytest.mark.root


def tree_of(layers: Layers, target: Path) -> Tree:
    return read_tree(target, oracle.apply([layer_tar(entries) for entries in layers], target))


@pytest.mark.parametrize("stack", ALL.values(), ids=lambda stack: stack.name)
def test_a_person_agrees(stack: Stack, tmp_path: Path) -> None:
    """What was written by hand about each nasty case holds: these names are there, those are not."""
    oracle.apply(stack.tars(), tmp_path / "tree")
    assert [name for name in stack.present if not os.path.lexists(tmp_path / "tree" / name)] == []
    assert [name for name in stack.absent if os.path.lexists(tmp_path / "tree" / name)] == []


def test_metadata_of_unlisted_directories(tmp_path: Path) -> None:
    """`/tmp` keeps 1777, a private directory its mode, owner and attributes; a hidden one lends nothing."""
    tree = tree_of(ALL["unlisted_directories"].layers, tmp_path / "a")
    assert tree["tmp"].mode == 0o1777
    assert (tree["priv"].mode, tree["priv"].uid, tree["priv"].xattrs) == (0o700, 1000, (("user.kept", b"yes"),))
    assert (tree["priv/deep"].mode, tree["priv/deep/deeper"].uid) == (0o2750, 3)
    hidden = tree_of(ALL["unlisted_directory_under_an_opaque_one"].layers, tmp_path / "b")["opt/app/sub"]
    assert (hidden.mode, hidden.uid) == (0o755, 0)


def test_groups_of_unlisted_directories_follow_the_order_of_the_tar(tmp_path: Path) -> None:
    """A setgid directory gives its group to what is made in it from its listing on, and never its bit."""
    tree = tree_of(ALL["setgid_directories_listed_after_their_contents"].layers, tmp_path / "tree")
    groups = {"g/early": 0, "g/late": 50, "g/above": 50, "m/early": 0, "m/late": 51, "o/early": 0, "o/late": 52}
    assert {path: tree[path].gid for path in groups} == groups
    assert {tree[path].mode for path in groups} == {0o755}


def test_a_late_listing_does_not_hide_the_group_below(tmp_path: Path) -> None:
    """What is needed before a directory is listed takes the group that the layers below gave that directory."""
    low, high = (Dir("g", mode=0o2775, gid=50),), (File("g/new/x"), Dir("g", mode=0o2775, gid=51), File("g/newer/x"))
    tree = tree_of((low, high), tmp_path / "tree")
    assert (tree["g/new"].gid, tree["g/newer"].gid) == (50, 51)


def test_listed_directories_take_everything_from_the_top(tmp_path: Path) -> None:
    """Listing a directory again replaces its mode, owner and attributes, and leaves its content."""
    low = (Dir("d", mode=0o700, uid=5, xattrs={"user.low": b"1"}), File("d/x"))
    tree = tree_of((low, (Dir("d", mode=0o711, gid=6, xattrs={"user.high": b"2"}),)), tmp_path / "tree")
    found = tree["d"]
    assert (found.mode, found.uid, found.gid, found.xattrs) == (0o711, 0, 6, (("user.high", b"2"),))
    assert "d/x" in tree


def test_capabilities_and_setuid_survive_the_change_of_owner(tmp_path: Path) -> None:
    """Both are dropped by chown, so they must come after it."""
    assert tree_of(ALL["extended_attributes"].layers, tmp_path / "a")["bin/arping"].xattrs
    assert tree_of(ALL["special_mode_bits"].layers, tmp_path / "b")["bin/all"].mode == 0o7777


def test_times_are_exact_and_unlisted_directories_are_named(tmp_path: Path) -> None:
    """Nanoseconds come through; the directories without a time of their own are exactly the unlisted ones."""
    tree = tree_of(ALL["nanosecond_times"].layers, tmp_path / "a")
    assert tree["d"].mtime_ns == 1_600_000_000_123_456_789
    assert tree["late"].mtime_ns == 5_000_000_000_999_999_999
    listed_then_touched = [layer_tar([Dir("d"), Dir("e"), File("d/x")]), layer_tar([File("d/y"), Whiteout("f/z")])]
    assert oracle.apply(listed_then_touched, tmp_path / "b") == {".", "d", "f"}


def test_nothing_is_written_through_a_symlink(tmp_path: Path) -> None:
    """A link of a lower layer that leads out of the tree is replaced, never followed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    layers = ((Symlink("link", str(outside)),), (Whiteout("link/kept"), Opaque("link"), File("link/new")))
    tree = tree_of(layers, tmp_path / "tree")
    assert sorted(outside.iterdir()) == [outside / "kept"]
    assert tree["link/new"].kind == "-"


@pytest.mark.slow
def test_umoci_unpacks_the_same(tmp_path: Path) -> None:
    """An unpacker that shares nothing with us makes the same tree of deletions, opaque directories and all types."""
    names = ("deleted_file", "opaque_directory", "hard_links", "devices_and_fifo", "extended_attributes", "symlinks")
    umoci = debs.UMOCI.tool("umoci")
    for name in names:
        image = write_image(tmp_path / "layout", ALL[name].tars(), name)
        umoci.run("unpack", "--image", f"{image.path}:{name}", tmp_path / name)
        expected = tmp_path / f"{name}.oracle"
        undated = oracle.apply(ALL[name].tars(), expected) | {"."}
        found = read_tree(tmp_path / name / "rootfs", undated)
        assert differences(read_tree(expected, undated), found) == []


@settings(max_examples=examples(40), deadline=None)
@given(layers=stacks())
def test_random_stacks_apply(tmp_path_factory: pytest.TempPathFactory, layers: Layers) -> None:
    """Every drawn stack is valid, leaves no marker in the tree, and every listed top entry is as listed."""
    tree = tree_of(layers, tmp_path_factory.mktemp("random") / "tree")
    assert not [name for name in tree if ".wh." in name]
    for entry in layers[-1]:
        if isinstance(entry, Dir):
            assert (tree[entry.path].mode, tree[entry.path].mtime_ns) == (entry.mode, entry.mtime_ns)


@settings(max_examples=examples(40))
@given(layers=stacks_equal_to_pull())
def test_random_stacks_are_valid_tars(layers: Layers) -> None:
    """No name stands twice in a layer, and nothing stands below what the layer makes no directory."""
    for layer in layers:
        made = [entry.path for entry in layer if not isinstance(entry, Whiteout | Opaque)]
        assert len(made) == len(set(made))
        leaves = {entry.path for entry in layer if not isinstance(entry, Dir | Whiteout | Opaque)}
        assert not [entry for entry in layer for leaf in leaves if entry.path.startswith(f"{leaf}/")]
