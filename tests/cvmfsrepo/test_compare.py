"""Each kind of difference between two trees is found, and nothing else is one."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from cvmfsrepo.compare import Difference, compare, content_differences, differences, entry_at, scan
from cvmfsrepo.tree import Entry
from tests import mounting

DIRECTORY, FILE = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644
BLOCK = b"x" * (1 << 20)
MTIME = 1_600_000_000_123_456_789


def tree(root: Path) -> Path:
    """A small tree in which every time is the same."""
    (root / "d").mkdir(parents=True)
    (root / "d/file").write_bytes(b"content\n")
    (root / "one").write_bytes(b"linked")
    (root / "d/two").hardlink_to(root / "one")
    (root / "link").symlink_to("d/file")
    os.mkfifo(root / "pipe")
    return dated(root)


def dated(root: Path) -> Path:
    for folder, _, files in os.walk(root, topdown=False):
        for path in (*(Path(folder, file) for file in files), Path(folder)):
            os.utime(path, ns=(MTIME, MTIME), follow_symlinks=False)
    return root


def of(found: list[Difference]) -> list[tuple[bytes, str]]:
    return [(difference.path, difference.field) for difference in found]


def test_equal_trees(tmp_path: Path) -> None:
    """Two trees made the same way have no difference; a tree has none with itself."""
    one, two = tree(tmp_path / "one"), tree(tmp_path / "two")
    assert compare(one, two) == []
    assert compare(one, one) == []


def _replace(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def _rewrite(path: Path, content: bytes) -> None:
    path.write_bytes(content)


CHANGES: dict[str, tuple[Callable[[Path], object], list[tuple[bytes, str]]]] = {
    "missing": (lambda root: (root / "d/file").unlink(), [(b"d/file", "missing")]),
    "extra": (lambda root: (root / "d/more").mkdir(), [(b"d/more", "extra")]),
    "type": (lambda root: _replace(root / "pipe", Path.mkdir), [(b"pipe", "type")]),
    "mode": (lambda root: (root / "d").chmod(0o1755), [(b"d", "mode")]),
    "mode of the root": (lambda root: root.chmod(0o700), [(b"", "mode")]),
    "size": (lambda root: _rewrite(root / "d/file", b"content\n\n"), [(b"d/file", "size")]),
    "content": (lambda root: _rewrite(root / "d/file", b"contend\n"), [(b"d/file", "content")]),
    "target": (lambda root: _replace(root / "link", lambda path: path.symlink_to("d/two")), [(b"link", "target")]),
    "xattrs": (lambda root: os.setxattr(root / "d", "user.x", b"1"), [(b"d", "xattrs")]),
    "hard-links": (
        lambda root: _replace(root / "d/two", lambda path: path.write_bytes(b"linked")),
        [(b"d/two", "hard-links"), (b"one", "hard-links")],
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_is_found(tmp_path: Path, name: str) -> None:
    """One change, and just its difference, whichever tree is expected."""
    one, two = tree(tmp_path / "one"), tree(tmp_path / "two")
    change, expected = CHANGES[name]
    change(two)
    dated(two)
    assert of(compare(one, two)) == expected
    mirrored = {"missing": "extra", "extra": "missing"}
    assert of(compare(two, one)) == [(path, mirrored.get(field, field)) for path, field in expected]


def test_mtime(tmp_path: Path) -> None:
    """To the nanosecond, of directories and links too."""
    one, two = tree(tmp_path / "one"), tree(tmp_path / "two")
    for name in ("d", "link", "d/file"):
        os.utime(two / name, ns=(MTIME, MTIME + 1), follow_symlinks=False)
    assert of(compare(one, two)) == [(b"d", "mtime"), (b"d/file", "mtime"), (b"link", "mtime")]


@pytest.mark.root
def test_owner_and_device(tmp_path: Path) -> None:
    """uid, gid, of links too; the number of a device, and its type."""
    one, two = tree(tmp_path / "one"), tree(tmp_path / "two")
    for root, minor, kind in ((one, 3, stat.S_IFCHR), (two, 5, stat.S_IFBLK)):
        os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, minor))
        os.mknod(root / "other", kind | 0o666, os.makedev(1, 3))
    os.chown(two / "link", 5, 6, follow_symlinks=False)
    os.chown(two / "d", 0, 7)
    found = compare(dated(one), dated(two))
    assert of(found) == [
        *((b"d", "gid"), (b"link", "uid"), (b"link", "gid"), (b"null", "device"), (b"other", "type")),
    ]
    assert (found[3].expected, found[3].found) == ((1, 3), (1, 5))


@pytest.mark.parametrize(
    ("left", "right", "offset"),
    [(b"abc", b"abd", 2), (b"abc", b"abcd", 3), (b"", b"x", 0), (BLOCK + b"a", BLOCK + b"b", 1 << 20)],
)
def test_offset_of_the_first_other_byte(tmp_path: Path, left: bytes, right: bytes, offset: int) -> None:
    """The difference says where, also behind the first block and where one file ends."""
    for name, content in (("one", left), ("two", right)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_bytes(content)
    (found,) = content_differences(tmp_path / "one", tmp_path / "two", [b"f"])
    assert str(found) == f"/f: content: expected 'the same bytes up to {offset}', found 'another byte at {offset}'"
    assert list(content_differences(tmp_path / "one", tmp_path / "one", [b"f"])) == []


def test_hard_link_groups_are_compared_as_sets() -> None:
    """The numbers do not matter; the names that are one file do. A name that is not in both is only missing."""
    one = {path: Entry(path, FILE, group=1) for path in (b"a", b"b", b"c")}
    other = {path: Entry(path, FILE, group=9) for path in (b"a", b"b", b"c")}
    assert list(differences(one, other)) == []
    split = {b"a": Entry(b"a", FILE, group=1), b"b": Entry(b"b", FILE, group=1), b"c": Entry(b"c", FILE)}
    assert of(list(differences(one, split))) == [(b"a", "hard-links"), (b"b", "hard-links"), (b"c", "hard-links")]
    lone = {b"a": Entry(b"a", FILE, group=1)}
    assert list(differences(lone, {b"a": Entry(b"a", FILE)})) == []
    assert of(list(differences(one, {b"a": one[b"a"], b"b": one[b"b"]}))) == [
        *((b"c", "missing"), (b"a", "hard-links"), (b"b", "hard-links")),
    ]


def test_ignore_is_asked_with_the_expected_entry() -> None:
    """Any field can be left out, hard links too; what is not there at all cannot."""
    expected = {b"d": Entry(b"d", DIRECTORY, mtime=1, implied=True), b"e": Entry(b"e", DIRECTORY, mtime=1)}
    expected[b"f"] = Entry(b"f", FILE)
    found = {b"d": Entry(b"d", DIRECTORY, uid=4, mtime=2), b"e": Entry(b"e", DIRECTORY, mtime=2)}
    ignored = differences(expected, found, ignore=lambda entry, field: entry.implied and field == "mtime")
    assert of(list(ignored)) == [(b"d", "uid"), (b"e", "mtime"), (b"f", "missing")]
    linked = {path: Entry(path, FILE, group=1) for path in (b"a", b"b")}
    apart = {path: Entry(path, FILE) for path in (b"a", b"b")}
    assert list(differences(linked, apart, ignore=lambda entry, field: field == "hard-links")) == []


@pytest.mark.root
def test_scan_of_odd_things(tmp_path: Path) -> None:
    """Names that are not UTF-8, devices, attributes, links to nowhere; groups are numbered by their first names."""
    base = os.fsencode(tmp_path)
    os.mkdir(base + b"/\xff\xfe")
    os.symlink(b"\xfd", base + b"/\xff\xfe/a\nb")
    os.mknod(base + b"/disk", stat.S_IFBLK | 0o660, os.makedev(259, 70_000))
    for first, second in (("z1", "b2"), ("a1", "c2")):
        (tmp_path / first).touch()
        (tmp_path / second).hardlink_to(tmp_path / first)
    os.setxattr(tmp_path / "a1", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    os.setxattr(tmp_path, "trusted.overlay.opaque", b"y")
    found = scan(tmp_path)
    assert found[b"\xff\xfe/a\nb"].target == b"\xfd"
    assert found[b"disk"].device == (259, 70_000)
    groups = {path: entry.group for path, entry in found.items() if entry.group}
    assert groups == {b"a1": 1, b"c2": 1, b"b2": 2, b"z1": 2}
    assert list(found[b"c2"].xattrs) == ["security.capability"]
    assert (found[b""].xattrs, found[b""].size, found[b""].is_directory) == ({}, 0, True)
    assert all(entry.path == path for path, entry in found.items())
    assert entry_at(base, b"disk") == found[b"disk"]


def test_scan_tells_how_far_it_is(tmp_path: Path) -> None:
    """Every thousand entries, for a progress bar."""
    for number in range(2100):
        (tmp_path / str(number)).touch()
    said = list[int]()
    assert len(scan(tmp_path, said.append)) == 2101
    assert said == [1000, 2000]


@pytest.mark.root
def test_ghosts_are_no_entries(tmp_path: Path) -> None:
    """Kernel overlayfs lists a whiteout in a directory that only one layer has, and denies that it exists."""
    for name in ("upper/d", "lower"):
        (tmp_path / name).mkdir(parents=True)
    os.mknod(tmp_path / "upper/d/ghost", stat.S_IFCHR, os.makedev(0, 0))
    (tmp_path / "upper/d/file").touch()
    with mounting.overlay([tmp_path / "upper", tmp_path / "lower"], tmp_path / "merged") as merged:
        assert "ghost" in os.listdir(merged / "d")
        assert set(scan(merged)) == {b"", b"d", b"d/file"}
