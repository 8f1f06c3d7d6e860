"""What is made again from the records, what is left alone, and that both are said."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cvmfsrepo.errors import AlreadyExists
from snapshotter.config import Config
from snapshotter.filters import parse_filters
from snapshotter.inspect import findings
from snapshotter.node import RunningNode
from snapshotter.repair import Mended, as_problem, mend, remove_leftovers
from snapshotter.server import opened_node
from snapshotter.snapshotter import remote_name
from tests.snapshotter.layers import HandMade, pull
from tests.snapshotter.nodes import eventually
from tests.suites.contract import upper_of

BASE = remote_name("base", "")
TOP = remote_name("top", BASE)


@pytest.fixture
def node(config: Config, repository: HandMade) -> Iterator[RunningNode]:
    """A repository's layers, two deep, both with markers; a container on them, and a local snapshot."""
    base = repository.add("base", {"a": "a", "etc/b": "b", ".wh.gone": ""})
    top = repository.add("top", {"t": "t", "etc/.wh.b": ""})
    with opened_node(config) as node:
        for target, parent, layer in (("base", "", base), ("top", BASE, top)):
            with pytest.raises(AlreadyExists, match="is served"):
                node.verbs.prepare(f"extract {target}", parent, pull(target, layer))
        (upper_of(node.verbs.prepare("container", TOP, {})) / "written").write_text("precious")
        node.verbs.prepare("a", "", {})
        node.verbs.commit("local", "a", {})
        yield node


def place(node: RunningNode, name: str) -> Path:
    return Path(node.disk.directory(node.store.get(name).id))


def tree(node: RunningNode) -> dict[str, str]:
    """Every path below the snapshots and the shims, with where it leads."""
    paths = [path for top in ("snapshots", "shims") for path in (node.disk.root / top).rglob("*")]
    return {str(path): os.readlink(path) if path.is_symlink() else "" for path in sorted(paths)}


def problems(node: RunningNode) -> list[str]:
    return [one.path for one in findings(node.store.walk(parse_filters([])), node.disk)]


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def relink(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def test_a_whole_node_is_left_as_it_is(node: RunningNode) -> None:
    """Nothing is done, and nothing is said."""
    before = tree(node)
    assert mend(node) == ()
    assert tree(node) == before


@pytest.mark.parametrize("name", ["fs", "h", "w"])
@pytest.mark.parametrize("damage", ["gone", "elsewhere", "nowhere"])
def test_a_link_is_made_again(node: RunningNode, name: str, damage: str) -> None:
    """Whatever became of it, it leads where it did."""
    before, path = tree(node), place(node, BASE) / name
    path.unlink() if damage == "gone" else relink(path, "/etc" if damage == "elsewhere" else "no/where")
    (done,) = mend(node)
    assert (done.path, done.done) == (str(path), True)
    assert tree(node) == before


def test_a_directory_and_all_shims_are_made_again(node: RunningNode) -> None:
    """The upper layer's shim is computed from what stands below it, so what is below is mended first."""
    before = tree(node)
    for path in (place(node, BASE), place(node, TOP), *node.shims.shims.iterdir()):
        remove(path)
    done = mend(node)
    assert all(one.done for one in done), done
    assert tree(node) == before
    assert problems(node) == []
    assert len(node.verbs.mounts("container")) == 1


def test_the_work_directory_of_an_active_snapshot_is_made_again(node: RunningNode) -> None:
    """It is scratch; what was written is not touched."""
    (place(node, "container") / "work").rmdir()
    (done,) = mend(node)
    assert done.path.endswith("/work")
    assert (place(node, "container") / "work").is_dir()
    assert (place(node, "container") / "fs" / "written").read_text() == "precious"


def test_what_was_written_or_downloaded_cannot_be_made_again(node: RunningNode) -> None:
    """It stays a finding; an empty directory in its place would lie."""
    shutil.rmtree(place(node, "container") / "fs")
    shutil.rmtree(place(node, "local"))
    before = problems(node)
    assert mend(node) == ()
    assert problems(node) == before


def test_what_somebody_put_in_a_links_place_is_left_alone(node: RunningNode) -> None:
    """It may be the only copy of something. The links beside it are mended."""
    path, directory = place(node, BASE) / "fs", place(node, TOP)
    path.unlink()
    path.mkdir()
    (path / "mine").touch()
    (place(node, BASE) / "h").unlink()
    shutil.rmtree(directory)
    directory.write_text("mine")
    said = {one.path: one for one in mend(node)}
    assert not said[str(path)].done
    assert not said[str(directory)].done
    assert said[f"{place(node, BASE)}/h"].done
    assert (path / "mine").exists()
    assert directory.read_text() == "mine"


def test_shims_while_the_repository_is_away(node: RunningNode, repository: HandMade) -> None:
    """They cannot be computed, and that is said; links need no repository. When it is back the shims are made."""
    before = tree(node)
    repository.root.rename(repository.root.with_name("away"))
    for path in node.shims.shims.iterdir():
        shutil.rmtree(path)
    (place(node, BASE) / "fs").unlink()
    said = mend(node)
    assert [one.done for one in said].count(True) == 1
    assert any("cannot be made again now (" in one.what for one in said)
    repository.root.with_name("away").rename(repository.root)
    eventually(lambda: (mend(node), tree(node) == before)[1])


def test_a_layer_that_is_another_one_now(node: RunningNode, repository: HandMade) -> None:
    """Its shims would not fit: the record's are not forged."""
    for path in node.shims.shims.iterdir():
        shutil.rmtree(path)
    for outline in node.shims.layers.iterdir():
        outline.unlink()
    layer = Path(os.readlink(place(node, BASE) / "fs"))
    (layer / ".wh.more").touch()
    said = mend(node)
    assert any("is another one now" in one.what and not one.done for one in said)


def test_a_repository_that_is_not_configured_any_more(node: RunningNode, config: Config) -> None:
    """Where its layers are nobody says, so no link is made; shims need it too."""
    (place(node, BASE) / "fs").unlink()
    shutil.rmtree(place(node, TOP))
    said = mend(replace(node, repositories=()))
    assert {one.path for one in said} == {f"{place(node, BASE)}/fs", str(place(node, TOP))}
    assert all("is not configured any more" in one.what and not one.done for one in said)


def test_orphans_are_removed(node: RunningNode) -> None:
    """Those with a number that was given; what was kept after a restore, and other names, stay."""
    node.verbs.prepare("gone", "", {})
    orphan = place(node, "gone")
    node.verbs.remove("gone")
    kept, strange, never = (node.disk.snapshots / name for name in ("1000", "1.bak", "4711"))
    for path in (orphan, kept, strange, never):
        (path / "fs").mkdir(parents=True)
    (kept / "kept").touch()
    (done,) = mend(node)
    assert done == Mended(str(orphan), "removed: it belonged to no snapshot")
    assert not orphan.exists()
    assert all(path.exists() for path in (kept, strange, never))


def test_leftovers_are_removed_in_order_but_for_what_is_in_use(node: RunningNode, config: Config) -> None:
    """What is mounted stays, and so does what it stands on; what is gone already is no trouble."""
    from snapshotter.admin.facts import Facts

    node.verbs.prepare("k", "local", {})
    records = {record.name: record for record in Facts(node).walk()}
    order = [records[name] for name in ("k", "container", TOP, BASE, "local")]
    node.verbs.remove("k")
    said = remove_leftovers(node.verbs.remove, order, {records["container"].id})
    assert [(one.path, one.done) for one in said] == [
        ("k", False), ("container", False), (TOP, False), (BASE, False), ("local", True),
    ]  # fmt: skip
    assert "is mounted" in said[1].what
    assert "has children" in said[2].what
    assert all(node.store.exists(name) for name in ("container", TOP, BASE))
    assert as_problem(said[1]).remedy
    assert not as_problem(said[4]).remedy
