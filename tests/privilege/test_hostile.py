"""A repository that means harm: refused with a reason, and nothing outside is read, written or waited for."""

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import zstandard

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import AlreadyExists, DataLoss, Unavailable
from cvmfsrepo.repository import Missing, Repository
from cvmfsrepo.tree import Entry, Notation, encode, make_record
from cvmfsrepo.whiteouts import Markers
from snapshotter.config import Config
from snapshotter.losses import find_losses
from snapshotter.server import opened
from tests import mounting
from tests.privilege.asking import OWN_ROOT, assert_served, reason, record
from tests.privilege.confined import Confined, privileges
from tests.privilege.unit import capabilities
from tests.privilege.watching import untouched
from tests.snapshotter.layers import NAME, HandMade, lookup, pull
from tests.suites.contract import fresh

pytestmark = pytest.mark.root

Spoil = Callable[[HandMade, Digest, Path], None]


def replaced_by_link(path: Path, target: str | Path) -> None:
    """Moves a directory of the repository away and puts a link in its place."""
    path.rename(path.with_name(f"{path.name}.moved"))
    path.symlink_to(target)


def _outside_layer(name: str) -> Spoil:
    def spoil(repository: HandMade, layer: Digest, outside: Path) -> None:
        places = {
            "layers": repository.layout.layers,
            "prefix": repository.layout.layer(layer).parent,
            "layer": repository.layout.layer(layer),
            "layerfs": repository.layout.layerfs(layer),
        }
        below = repository.layout.layerfs(layer).relative_to(places[name])
        copy = outside / below  # so that it would be found if the link were followed
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not copy.exists():
            (outside / "layerfs").rename(copy)
        replaced_by_link(places[name], outside)

    return spoil


@pytest.mark.parametrize("place", ["layers", "prefix", "layer", "layerfs"])
@pytest.mark.parametrize("relative", [False, True])
def test_a_link_on_the_way_to_a_layer(
    repository: HandMade, outside: Path, config: Config, place: str, relative: bool
) -> None:
    """At every level: denied, and the detail names the link. What it leads to is not even opened."""
    layer = repository.add("base")
    _outside_layer(place)(repository, layer, outside)
    (link,) = [path for path in repository.root.rglob("*") if path.is_symlink()]
    if relative:
        link.unlink()
        link.symlink_to(os.path.relpath(outside, link.parent))
    assert repository.layout.layerfs(layer).is_dir()
    with opened(config) as verbs, untouched(outside):
        said = reason(verbs, layer)
    assert said.startswith("denied: ")
    assert f"{link.name!r} is a link, which could lead out of the repository" in said


def test_a_link_to_another_layer(repository: HandMade, config: Config) -> None:
    """Also within the repository: a layer shows what its digest names, or nothing."""
    good, bad = repository.add("good"), repository.add("bad")
    replaced_by_link(repository.layout.layerfs(bad), repository.layout.layerfs(good))
    with opened(config) as verbs:
        assert reason(verbs, bad).startswith("denied: ")


def test_the_repository_itself_may_be_a_link(repository: HandMade, config: Config, tmp_path: Path) -> None:
    """Its place is the operator's word, not its content's."""
    layer = repository.add("base")
    (tmp_path / "link").symlink_to(repository.root)
    linked = msgspec.structs.replace(config, absolute_mountpoint=str(tmp_path / "link"))
    with opened(linked) as verbs:
        assert_served(verbs, layer)


def test_a_layer_that_becomes_a_link(repository: HandMade, outside: Path, config: Config) -> None:
    """After it was served: no more mounts are answered on top of it, for overlayfs would follow the link."""
    layer = repository.add("base")
    with opened(config) as verbs:
        name = assert_served(verbs, layer)
        view = fresh("view")
        verbs.view(view, name, {})
        replaced_by_link(repository.layout.layerfs(layer), outside / "layerfs")
        time.sleep(2 * config.probe_interval)
        with untouched(outside):
            with pytest.raises(Unavailable, match=r"cannot be read now \(denied: "):
                verbs.view(fresh("view"), name, {})
            with pytest.raises(Unavailable, match=r"cannot be read now \(denied: "):
                verbs.prepare(fresh("key"), name, {})
            with pytest.raises(Unavailable, match=r"cannot be read now \(denied: "):
                verbs.mounts(view)


def _link(repository: HandMade, layer: Digest, outside: Path) -> None:
    (outside / "tree.v1").write_bytes(encode(make_record(layer, layer, Notation.OCI, [OWN_ROOT], Markers(), ())))
    repository.layout.tree_record(layer).symlink_to(outside / "tree.v1")


def _linked_directory(repository: HandMade, layer: Digest, outside: Path) -> None:
    _link(repository, layer, outside)
    repository.layout.layer_metadata(layer).joinpath("tree.v1").unlink()
    repository.layout.layer_metadata(layer).rmdir()
    repository.layout.layer_metadata(layer).symlink_to(outside)


def _pipe(repository: HandMade, layer: Digest, outside: Path) -> None:
    os.mkfifo(repository.layout.tree_record(layer))


def _device(repository: HandMade, layer: Digest, outside: Path) -> None:
    os.mknod(repository.layout.tree_record(layer), stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero


def _directory(repository: HandMade, layer: Digest, outside: Path) -> None:
    repository.layout.tree_record(layer).mkdir()


def _huge(repository: HandMade, layer: Digest, outside: Path) -> None:
    repository.write_record(layer, b"")
    os.truncate(repository.layout.tree_record(layer), 1 << 43)


def _bomb(repository: HandMade, layer: Digest, outside: Path) -> None:
    """256 MiB of a few KB: an array of as many empty names as it says."""
    names = b"\xc4\x00" * (100 << 20)
    frame = b"\x81\xa9whiteouts\xdd" + (len(names) // 2).to_bytes(4, "big") + names
    repository.write_record(layer, zstandard.compress(frame))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (_link, "markers-unavailable"),
        (_linked_directory, "denied"),
        (_pipe, "markers-unavailable"),
        (_device, "markers-unavailable"),
        (_directory, "markers-unavailable"),
        (_huge, "markers-unavailable"),
        (_bomb, "markers-unavailable"),
    ],
)
def test_a_record_that_is_none(
    tmp_path: Path, repository: HandMade, outside: Path, spoil: Spoil, expected: str
) -> None:
    """A link to a secret, a pipe, a device, a directory, eight terabytes of nothing, a bomb: the daemon with the
    unit's capabilities answers at once, with the reason and the file, in little memory, and lives."""
    layer, good = repository.add("base"), repository.add("good")
    repository.layout.layer_metadata(layer).mkdir()
    spoil(repository, layer, outside)
    with Confined(
        tmp_path / "root", capabilities(), repository=NAME, absolute_mountpoint=repository.root, deadline=10
    ) as daemon, daemon.client() as client, untouched(outside):  # fmt: skip
        assert_served(client, good)
        before, started = peak_memory(daemon.pid), time.monotonic()
        said = reason(client, layer)
        assert time.monotonic() - started < 2
        assert said.startswith(f"{expected}: ")
        assert str(repository.layout.tree_record(layer).parent.name) in said
        assert peak_memory(daemon.pid) - before < 80 << 20
        assert_served(client, good)


def peak_memory(pid: int) -> int:
    """Bytes that a process had at most."""
    return int(privileges(pid)["VmHWM"].split()[0]) << 10


@pytest.mark.parametrize(
    "path", [b"..", b"../x", b"a/../../x", b"/etc/passwd", b"a//b", b"./a", b"a\0b", b"a/", b"/", b"."]
)
@pytest.mark.parametrize("field", ["whiteouts", "opaques", "extras", "directories"])
def test_a_marker_list_that_leaves_the_layer(
    repository: HandMade, config: Config, tmp_path: Path, path: bytes, field: str
) -> None:
    """No shim is written, inside or outside the state directory."""
    layer = repository.add("base")
    value = (OWN_ROOT, Entry(path, 0o40755)) if field == "directories" else (path,)
    repository.write_record(layer, record(layer, **{field: value}))
    with opened(config) as verbs:
        assert reason(verbs, layer).startswith("markers-unavailable: ")
    assert os.listdir(Path(config.root, "shims")) == []
    assert sorted(os.listdir(tmp_path)) == ["repository", "root"]


def test_overlayfs_marks_in_a_record(repository: HandMade, config: Config) -> None:
    """Are written nowhere: a redirect would show another directory, an opaque mark hide what is below."""
    layer = repository.add("base", {"d/.wh.gone": ""})
    marks = {f"{prefix}.overlay.{name}": b"y" for prefix in ("trusted", "user") for name in ("opaque", "redirect")}
    directory = Entry(b"d", 0o40755, xattrs={**marks, "user.kept": b"1"})
    repository.write_record(layer, record(layer, whiteouts=(b"d/gone",), directories=(OWN_ROOT, directory)))
    with opened(config) as verbs:
        assert_served(verbs, layer)
    found = [path for path in Path(config.root, "shims").rglob("d") if os.listxattr(path)]
    assert [os.listxattr(path) for path in found] == [["user.kept"]]


NASTY_NAMES = (
    "$(touch pwned)", "`touch pwned`", "; touch pwned", "-rf", "--help", "*", "?", "a\nb", "a\tb", "'", '"', "\\",
    " ", "a,b", "a:b", "a=b", "\x1b[2J", "%s%n", "{}", "~", "#", "é", os.fsdecode(b"\xff\xfe"), "x" * 251,
)  # fmt: skip


@pytest.mark.parametrize("with_record", [False, True])
def test_names_that_mean_something_elsewhere(repository: HandMade, config: Config, with_record: bool) -> None:
    """To a shell, a terminal, overlayfs's options or a format: names here are bytes, and each deletes its own file."""
    base = repository.add("base", dict.fromkeys((*NASTY_NAMES, "stays"), "old"))
    top = repository.add("top", {**{f".wh.{name}": "" for name in NASTY_NAMES}, "new": "new"})
    if with_record:
        repository.write_record(top, record(top, whiteouts=tuple(sorted(map(os.fsencode, NASTY_NAMES)))))
    with opened(config) as verbs:
        name = assert_served(verbs, base)
        with pytest.raises(AlreadyExists, match="is served"):
            verbs.prepare(fresh("extract"), name, pull("top", top))
        (above,) = lookup(verbs, "top", name)
        (mount,) = verbs.view(fresh("view"), above, {})
        target = Path(config.root).parent / "mounted"
        with mounting.mounted(mount.type, mount.source, target, mount.options) as shown:
            assert sorted(os.listdir(shown)) == ["new", "stays"]


def test_a_witness_behind_a_link(repository: HandMade, outside: Path) -> None:
    """A record may name a path that leads through a link of the layer: nothing outside is compared with it."""
    layer = repository.add("base")
    base = repository.layout.layerfs(layer)
    (base / "link").symlink_to(outside / "layerfs")
    with untouched(outside), pytest.raises(OSError, match="is a link"):
        find_losses(base, [Entry(b"link/etc/shadow", 0o100644)])


def test_a_diff_id_behind_a_link(repository: HandMade, outside: Path) -> None:
    """The link of a diff id is read and not followed, and what leads to it may be no link."""
    layer = repository.add("base")
    diff_id, served = repository.link_diff_id(layer), Repository(NAME, repository.layout)
    assert served.find_by_diff_id(diff_id) == layer
    (outside / diff_id.hex).symlink_to(os.readlink(repository.layout.diff_id_link(diff_id)))
    replaced_by_link(repository.layout.diff_id_link(diff_id).parent, outside)
    assert repository.layout.diff_id_link(diff_id).is_symlink()
    assert served.find_by_diff_id(diff_id) is None


@pytest.mark.parametrize("value", [b"9" * 5000, b"9" * 19, b"1e9", b"\xd9\xa1"])
def test_a_revision_that_is_no_number(repository: HandMade, value: bytes) -> None:
    """None: neither an error of ours nor more than the database takes."""
    os.setxattr(repository.root, "user.revision", value[:4000])
    assert Repository(NAME, repository.layout).find_revision() is None


def test_nothing_of_a_refusal_stays_open(repository: HandMade, outside: Path) -> None:
    """A daemon that is asked for hostile layers for years does not run out of descriptors."""
    layer = repository.add("base")
    repository.layout.layer_metadata(layer).mkdir()
    _link(repository, layer, outside)
    linked = repository.add("linked")
    replaced_by_link(repository.layout.layerfs(linked), outside)
    served, before = Repository(NAME, repository.layout), len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        assert isinstance(served.find_layer(linked), Missing)
        with pytest.raises(DataLoss):
            served.find_head(layer)
    assert len(os.listdir("/proc/self/fd")) == before
