"""Remote Prepare: a layer that the repository has becomes a committed snapshot, and containerd finds it."""

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from snapshotter import labels as label
from snapshotter.config import Config
from snapshotter.server import opened
from snapshotter.snapshots import Info, Kind, Usage
from snapshotter.snapshotter import Snapshotter, remote_name
from tests import mounting
from tests.snapshotter.layers import NAME, HandMade, lookup, pull
from tests.suites.contract import Verbs, committed, fresh, lowers_of

pytestmark = pytest.mark.root  # the shim above a base layer has a root directory of 0:0


def served(verbs: Verbs, target: str, parent: str, labels: Mapping[str, str]) -> str:
    """A Prepare that must hit; the name that containerd finds afterwards."""
    with pytest.raises(AlreadyExists, match="is served"):
        verbs.prepare(fresh("extract"), parent, labels)
    (name,) = lookup(verbs, target, parent)
    return name


def stack(verbs: Verbs, *layers: Digest) -> str:
    """A chain of remote snapshots, base first; the topmost one's name."""
    parent = ""
    for number, layer in enumerate(layers):
        target = f"sha256:chain-{number}"
        parent = served(verbs, target, parent, pull(target, layer))
    return parent


def test_a_hit_is_a_committed_snapshot(repository: HandMade, verbs: Snapshotter) -> None:
    """It carries the labels of the request, and one that tells tools what it is; it takes no disk."""
    labels = {**pull("sha256:c", repository.add("base")), "containerd.io/snapshot/x": "1"}
    name = served(verbs, "sha256:c", "", labels)
    info = verbs.stat(name)
    assert (info.kind, info.parent, info.created) == (Kind.COMMITTED, "", info.updated)
    assert info.labels == {**labels, label.REMOTE: NAME}
    assert name == remote_name("sha256:c", "")
    assert verbs.usage(name) == Usage()


def test_the_key_of_a_hit_is_free(repository: HandMade, verbs: Snapshotter) -> None:
    """No active snapshot is made under it."""
    with pytest.raises(AlreadyExists):
        verbs.prepare("extract", "", pull("c", repository.add("base")))
    with pytest.raises(NotFound):
        verbs.stat("extract")
    verbs.prepare("extract", "", {})


def test_a_remote_snapshot_is_links(repository: HandMade, verbs: Snapshotter, config: Config) -> None:
    """Nothing of the layer is copied or mounted: a link leads to it, others to the shims around it."""
    layer = repository.add("base", {"etc/passwd": "x", "etc/.wh.shadow": ""})
    stack(verbs, layer)
    (directory,) = Path(config.root, "snapshots").iterdir()
    assert {path.name: path.is_symlink() for path in directory.iterdir()} == {"fs": True, "h": True, "w": True}
    assert os.readlink(directory / "fs") == str(repository.layout.layerfs(layer))
    assert (directory / "h" / "etc" / ".wh.shadow").is_char_device()
    assert (directory / "w" / "etc" / "shadow").is_char_device()


def test_a_layer_is_found_by_its_diff_id(repository: HandMade, verbs: Snapshotter) -> None:
    """Alone, and where the layer was compressed anew so that its digest is unknown here."""
    layer = repository.add("base")
    diff_id = repository.link_diff_id(layer)
    served(verbs, "a", "", pull("a", diff_id=diff_id))
    served(verbs, "b", "", pull("b", Digest.of(b"other compression"), diff_id))


def test_the_layer_digest_comes_first(repository: HandMade, verbs: Snapshotter, config: Config) -> None:
    """Where both labels lead to a layer, it is the one of the layer digest."""
    layer, other = repository.add("base"), repository.add("other")
    served(verbs, "a", "", pull("a", layer, repository.link_diff_id(other)))
    (directory,) = Path(config.root, "snapshots").iterdir()
    assert (directory / "fs" / "base").exists()


@pytest.mark.parametrize("target", ["/etc", "../../../.layers/../../etc", "../../../.layers/xx", "", "../../../../x"])
def test_a_hostile_diff_id_link(repository: HandMade, verbs: Snapshotter, target: str) -> None:
    """A link that the publisher would not have made leads nowhere."""
    layer = repository.add("base")
    diff_id = repository.link_diff_id(layer)
    link = repository.layout.diff_id_link(diff_id)
    link.unlink()
    if target:
        link.symlink_to(target)
    else:
        link.write_text("no link")
    verbs.prepare("key", "", pull("a", diff_id=diff_id))
    assert verbs.stat("key").labels[label.MISS].startswith("absent: ")


def test_a_second_prepare_of_the_same(repository: HandMade, verbs: Snapshotter, config: Config) -> None:
    """AlreadyExists again, with the one snapshot and the one directory."""
    layer = repository.add("base")
    first = served(verbs, "a", "", pull("a", layer))
    assert served(verbs, "a", "", pull("a", layer, image="another/image")) == first
    assert len(list(Path(config.root, "snapshots").iterdir())) == 1


def test_a_snapshot_whose_target_was_taken_away_is_found_again(repository: HandMade, verbs: Snapshotter) -> None:
    """Somebody's Update removed the label; the next Prepare restores it, or the caller would find nothing."""
    labels = pull("a", repository.add("base"))
    for _ in range(2):
        with pytest.raises(AlreadyExists):
            verbs.prepare(fresh("extract"), "", labels)
        (name,) = lookup(verbs, "a", "")
        verbs.update(Info(Kind.COMMITTED, name, "", 0, 0), [])


def test_many_prepares_of_the_same_at_once(repository: HandMade, verbs: Snapshotter, config: Config) -> None:
    """Each is told that it exists; one snapshot and no leftover on the disk."""
    layers = [repository.add(f"layer-{number}", {"a": "x", ".wh.b": ""}) for number in range(4)]
    start = threading.Barrier(12)

    def prepare(number: int) -> None:
        start.wait()
        for layer in layers:
            with pytest.raises(AlreadyExists, match="is served"):
                verbs.prepare(f"key-{number}", "", pull(f"chain of {layer}", layer))

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(prepare, range(12)))
    assert len(list(verbs.walk())) == 4
    assert sorted(path.name for path in Path(config.root, "snapshots").iterdir()) == ["1", "2", "3", "4"]
    assert [path for path in Path(config.root, "shims").iterdir() if path.name.startswith("new-")] == []
    assert len(list(Path(config.root, "layers").iterdir())) == 4


def test_one_layer_under_two_parents(repository: HandMade, verbs: Snapshotter) -> None:
    """In two images, or twice in one: a snapshot for each place."""
    layer, first, second = repository.add("shared"), repository.add("first"), repository.add("second")
    one, two = served(verbs, "1", "", pull("1", first)), served(verbs, "2", "", pull("2", second))
    names = {served(verbs, "s", parent, pull("s", layer)) for parent in (one, two)}
    again = served(verbs, "t", min(names), pull("t", layer))
    assert len({*names, again}) == 3
    assert {verbs.stat(name).parent for name in names} == {one, two}
    lowers = [lower for lower in lowers_of(verbs.view("view", again, {})) if lower.name == "fs"]
    assert len(lowers) == 2


def test_two_namespaces(repository: HandMade, verbs: Snapshotter) -> None:
    """containerd names snapshots by namespace: base layers are shared, a layer on a downloaded one has two parents
    and so two snapshots under the same target."""
    base, top = repository.add("base"), repository.add("top")
    parents = []
    for namespace in ("k8s.io", "default"):
        served(verbs, "c1", "", pull("c1", base))
        verbs.prepare(f"{namespace}/7/extract", "", {})
        verbs.commit(f"{namespace}/8/chain", f"{namespace}/7/extract", {})
        parents.append(f"{namespace}/8/chain")
    names = [served(verbs, "c2", parent, pull("c2", top)) for parent in parents]
    assert len(set(names)) == 2
    assert len(lookup(verbs, "c1", "")) == 1


def test_a_remote_snapshot_on_a_local_one_and_below_one(repository: HandMade, verbs: Snapshotter) -> None:
    """Both stand in one chain, topmost first."""
    local = committed(verbs, file="local")
    remote = served(verbs, "r", local, pull("r", repository.add("remote")))
    top = committed(verbs, remote, file="top")
    seen = [path.name for lower in lowers_of(verbs.view("view", top, {})) for path in lower.iterdir()]
    assert [name for name in seen if name != ".cvmfscatalog"] == ["top", "remote", "local"]


def test_the_contract_comes_before_the_layer(repository: HandMade, verbs: Snapshotter) -> None:
    """A taken key, an unknown parent and one that is not committed are refused, and no snapshot is made."""
    labels = pull("a", repository.add("base"))
    verbs.prepare("taken", "", {})
    with pytest.raises(AlreadyExists, match="exists already"):
        verbs.prepare("taken", "", labels)
    with pytest.raises(NotFound):
        verbs.prepare("key", "none", labels)
    with pytest.raises(InvalidArgument):
        verbs.prepare("key", "taken", labels)
    assert [info.name for info in verbs.walk()] == ["taken"]


def test_a_view_and_a_plain_prepare_ask_for_no_layer(repository: HandMade, verbs: Snapshotter) -> None:
    """Without a target nothing is looked up; a View never is."""
    layer = repository.add("base")
    verbs.prepare("key", "", {label.LAYER_DIGEST: str(layer)})
    verbs.view("view", "", pull("a", layer))
    assert {info.kind for info in verbs.walk()} == {Kind.ACTIVE, Kind.VIEW}
    assert label.MISS not in verbs.stat("key").labels


def test_removal_leaves_the_repository_alone(repository: HandMade, verbs: Snapshotter, config: Config) -> None:
    """The links go, what they lead to stays; the layer is served again when it is asked for."""
    layer = repository.add("base", {"deep/file": "x"})
    name = stack(verbs, layer)
    verbs.prepare("child", name, {})
    with pytest.raises(FailedPrecondition):
        verbs.remove(name)
    verbs.remove("child")
    verbs.remove(name)
    assert list(Path(config.root, "snapshots").iterdir()) == []
    assert (repository.layout.layerfs(layer) / "deep" / "file").read_text() == "x"
    assert stack(verbs, layer) == name


def test_the_repository_goes_away_afterwards(repository: HandMade, verbs: Snapshotter) -> None:
    """What was served is known without it: Stat, Mounts, Usage, a new container, a removal."""
    name = stack(verbs, repository.add("base"), repository.add("top"))
    repository.root.rename(repository.root.with_name("away"))
    mounts = verbs.prepare("container", name, {})
    assert verbs.mounts("container") == mounts
    assert verbs.usage(name) == Usage()
    assert verbs.stat(name).kind is Kind.COMMITTED
    verbs.remove("container")
    verbs.remove(name)


def test_a_restart_changes_nothing(repository: HandMade, config: Config) -> None:
    """Records, links and shims are as before; the sweep takes none that is needed."""
    layers = [repository.add("base", {"a": "x", ".wh.b": ""}), repository.add("top", {"c/.wh..wh..opq": ""})]
    with opened(config) as verbs:
        name = stack(verbs, *layers)
        mounts, infos = verbs.prepare("container", name, {}), list(verbs.walk())
        before = sorted(str(path) for path in Path(config.root).rglob("*") if "metadata" not in path.name)
    with opened(config) as verbs:
        assert verbs.mounts("container") == mounts
        assert list(verbs.walk()) == infos
        assert stack(verbs, *layers) == name
        after = sorted(str(path) for path in Path(config.root).rglob("*") if "metadata" not in path.name)
        assert after == before


def test_every_pull_leaves_one_log_line(
    repository: HandMade, verbs: Snapshotter, caplog: pytest.LogCaptureFixture
) -> None:
    """With the outcome, and the reason of a miss; a Prepare that is no pull leaves none. What docs/metrics.md promises
    of the line is in every one."""
    caplog.set_level(logging.INFO)
    layer = repository.add("base")
    served(verbs, "a", "", pull("a", layer))
    verbs.prepare("missed", "", pull("b", Digest.of(b"none")))
    verbs.prepare("plain", "", {})
    lines = [record.__dict__["fields"] for record in caplog.records if record.message == "remote prepare"]
    assert [(line["outcome"], line["reason"]) for line in lines] == [("hit", ""), ("miss", "absent")]
    always = {"key", "parent", "target", "image", "layer", "repository", "outcome", "reason", "seconds"}
    assert [set(line) - always for line in lines] == [{"revision"}, {"detail"}]
    assert all(always <= set(line) for line in lines)
    assert [line["repository"] for line in lines] == [NAME, NAME]
    assert lines[0]["layer"] == str(layer)
    assert (lines[1]["key"], lines[1]["image"], lines[1]["target"]) == ("missed", "a/b:c", "b")


def test_the_tree_is_the_one_of_a_pull(repository: HandMade, verbs: Snapshotter, tmp_path: Path) -> None:
    """Deleted files are gone, and neither markers nor the repository's own files show."""
    base = repository.add("base", {".cvmfscatalog": "", "etc/a": "1", "etc/b": "1", "var/old/x": "1", "keep": "1"})
    middle = repository.add("middle", {".cvmfscatalog": "", "etc/.wh.a": "", "var/.wh..wh..opq": "", "var/new": "2"})
    again = repository.add("again", {"etc/a": "3"})
    (mount,) = verbs.view("view", stack(verbs, base, middle, again, middle), {})
    with mounting.mounted(mount.type, mount.source, tmp_path / "mnt", mount.options) as tree:
        files = {str(path.relative_to(tree)): path.read_text() for path in tree.rglob("*") if path.is_file()}
    assert files == {"etc/b": "1", "var/new": "2", "keep": "1"}


def test_layers_that_share_their_shims_are_mounted(repository: HandMade, verbs: Snapshotter, tmp_path: Path) -> None:
    """Layers of one build have the same times and so the same shims; overlayfs refuses a directory that stands in a
    stack twice."""
    layers = [repository.add(f"layer-{number}", {f"{number}": "", "d/.wh.x": ""}) for number in range(3)]
    for layer in layers:
        for path in (repository.layout.layerfs(layer) / "d", repository.layout.layerfs(layer)):
            os.utime(path, ns=(1, 1))
    (mount,) = verbs.view("view", stack(verbs, *layers), {})
    assert len(list((tmp_path / "root" / "shims").iterdir())) == 2
    with mounting.mounted(mount.type, mount.source, tmp_path / "mnt", mount.options) as tree:
        assert {path.name for path in tree.iterdir()} == {"0", "1", "2", "d"}
        assert list((tree / "d").iterdir()) == []


@pytest.mark.parametrize("orders", [(0, 1, 0), (0, 1, 0, 1), (0, 0), (1, 0, 2, 0, 1), (2, 1, 0, 1, 2)])
def test_a_layer_repeated_in_an_image(
    repository: HandMade, verbs: Snapshotter, tmp_path: Path, orders: tuple[int, ...]
) -> None:
    """Every order of layers that add, delete and replace the same names shows what unpacking one on the other does."""
    contents: list[dict[str, str | None]] = [
        {"a": "0", "d/x": "0", "t/f/g": "0", ".wh.c": ""},
        {".wh.a": "", "d/.wh..wh..opq": "", "d/y": "1", "t/f": "1", "c": "1"},
        {"a/b": "2", ".wh.d": "", "t/.wh.f": "", "t/h": "2", "c/c": "2"},
    ]
    layers = [repository.add(f"layer-{number}", content) for number, content in enumerate(contents)]
    (mount,) = verbs.view("view", stack(verbs, *(layers[number] for number in orders)), {})
    with mounting.mounted(mount.type, mount.source, tmp_path / "mnt", mount.options) as tree:
        files = {str(path.relative_to(tree)): path.read_text() for path in tree.rglob("*") if path.is_file()}
    assert files == unpacked([contents[number] for number in orders])


def unpacked(layers: Sequence[Mapping[str, str | None]]) -> dict[str, str]:
    """The files of layers that were unpacked one on the other, by OCI's rules."""
    files: dict[str, str] = {}
    for layer in layers:
        for path in layer:
            directory, _, name = path.rpartition("/")
            if name == ".wh..wh..opq":
                files = {old: text for old, text in files.items() if not old.startswith(f"{directory}/")}
            elif name.startswith(".wh."):
                gone = f"{directory}/{name[4:]}".lstrip("/")
                files = {old: text for old, text in files.items() if not f"{old}/".startswith(f"{gone}/")}
        for path, content in layer.items():
            if ".wh." not in path:
                files = {old: text for old, text in files.items() if not path.startswith(f"{old}/")}
                files = {old: text for old, text in files.items() if not old.startswith(f"{path}/")}
                files[path] = content or ""
    return files


def test_a_container_writes_to_its_own_directory(repository: HandMade, verbs: Snapshotter, tmp_path: Path) -> None:
    """A file of the layer is changed and another deleted in the container; the repository keeps both."""
    layer = repository.add("base", {"change": "1", "delete": "1"})
    (mount,) = verbs.prepare("container", stack(verbs, layer), {})
    with mounting.mounted(mount.type, mount.source, tmp_path / "mnt", mount.options) as tree:
        (tree / "change").write_text("2")
        (tree / "delete").unlink()
        assert [path.name for path in tree.iterdir()] == ["change"]
    assert (repository.layout.layerfs(layer) / "change").read_text() == "1"
    assert (repository.layout.layerfs(layer) / "delete").exists()
    assert verbs.usage("container").inodes == 3
