"""A layer's outline and what is below it -> the small trees above and below it; no disk, no mount."""

import stat
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmfsrepo.digest import Digest
from cvmfsrepo.outline import Outline, Source, outline_of
from cvmfsrepo.shims import Below, Found, Shim, hide_shim, nothing_below, white_shim
from cvmfsrepo.tree import Entry, Notation, make_record
from cvmfsrepo.whiteouts import Markers, ancestors

DIRECTORY, FILE = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644
CATALOG = b".cvmfscatalog"
ROOT = Entry(b"", DIRECTORY, mtime=7)


def outline(
    *directories: Entry, whiteouts: Iterable[bytes] = (), opaques: Iterable[bytes] = (), hidden: Iterable[bytes] = ()
) -> Outline:
    return Outline(
        source=Source.WALK,
        whiteouts=tuple(whiteouts),
        opaques=tuple(opaques),
        hidden=tuple(hidden),
        directories=directories,
    )


def below(*entries: Entry, content: bytes = b"") -> Below:
    """The merge of the layers below, given as its entries."""
    found = {entry.path: Found(entry, content) for entry in entries}
    return found.get


def directory(path: bytes, mode: int = 0o755, **fields: Any) -> Entry:
    return Entry(path, stat.S_IFDIR | mode, **fields)


def paths(shim: Shim) -> list[bytes]:
    return [entry.path for entry in shim.directories]


# --- hide, above the layer


def test_hide_of_a_plain_layer() -> None:
    """Never left out: one device over the catalog marker, or at least a root that is local."""
    assert hide_shim(outline(ROOT, hidden=[CATALOG]), nothing_below) == Shim((ROOT,), (CATALOG,))
    assert hide_shim(outline(), nothing_below) == Shim((Entry(b"", DIRECTORY),), ())


def test_hide_covers_markers_at_any_depth() -> None:
    """A device over each raw name, in directories with the metadata of the layer's, for the topmost wins."""
    d = directory(b"d", 0o2750, uid=3, gid=4, mtime=5, xattrs={"user.x": b"1"})
    e = directory(b"d/e", 0o700)
    shim = hide_shim(outline(ROOT, d, e, hidden=[b"d/e/.wh.x", b".wh.y", CATALOG]), nothing_below)
    assert shim.directories == (ROOT, d, directory(b"d/e", 0o700))
    assert shim.whiteouts == (CATALOG, b".wh.y", b"d/e/.wh.x")


def test_hide_needs_nothing_inside_of_what_it_hides() -> None:
    """A hidden directory is one device; nothing is made below it, though the outline knows of it."""
    inside = directory(b".wh.d/e", implied=True)
    made = outline(ROOT, directory(b".wh.d"), inside, hidden=[b".wh.d", b".wh.d/.wh.x"])
    shim = hide_shim(made, below(directory(b".wh.d/e", 0o700)))
    assert (paths(shim), shim.whiteouts) == ([b""], (b".wh.d",))


def test_implied_directory_takes_the_lower_s_metadata() -> None:
    """Mode, owner and attributes from below, the time its own; `/tmp` stays 1777 and `/priv` stays closed."""
    lower = directory(b"priv", 0o1700, uid=1, gid=2, mtime=3, xattrs={"user.x": b"1"}, implied=True)
    shim = hide_shim(outline(ROOT, directory(b"priv", mtime=9, implied=True)), below(ROOT, lower))
    assert shim.directories[1] == directory(b"priv", 0o1700, uid=1, gid=2, mtime=9, xattrs={"user.x": b"1"})


@pytest.mark.parametrize("found", [None, Entry(b"d", FILE), Entry(b"d", stat.S_IFLNK | 0o777, target=b"e")])
def test_implied_directory_over_nothing(found: Entry | None) -> None:
    """With nothing or no directory below there is nothing to take: it stays as the layer shows it."""
    shim = hide_shim(outline(ROOT, directory(b"d", implied=True)), below(*([found] if found else [])))
    assert paths(shim) == [b""]


@pytest.mark.parametrize(
    ("source", "parent", "gid"),
    [
        (Source.RECORD, directory(b"d", implied=True), 50),
        (Source.WALK, directory(b"d", implied=True), 50),
        (Source.RECORD, directory(b"d", 0o2775, gid=60), None),
        (Source.WALK, directory(b"d", 0o2775, gid=60), 60),
        (Source.WALK, directory(b"d", 0o775, gid=60), None),
    ],
)
def test_new_directory_in_a_setgid_one(source: Source, parent: Entry, gid: int | None) -> None:
    """It takes the group of one that is setgid below; of one that its own layer lists only where no record has
    followed the tar's order."""
    made = msgspec.structs.replace(outline(ROOT, parent, directory(b"d/e", mtime=5, implied=True)), source=source)
    shim = hide_shim(made, below(ROOT, directory(b"d", 0o2750, gid=50)))
    assert [entry for entry in shim.directories if entry.path == b"d/e"] == (
        [directory(b"d/e", gid=gid, mtime=5)] if gid else []
    )


def test_a_root_that_is_setgid_gives_its_group_to_nothing() -> None:
    """A pull ignores the root's own entry, also where no record tells what the tar said."""
    root = directory(b"", 0o2755, gid=60)
    for under in (nothing_below, below(ROOT)):
        shim = hide_shim(outline(root, directory(b"new", implied=True)), under)
        assert [entry for entry in shim.directories if entry.path and entry.gid] == []


@pytest.mark.parametrize("early", [True, False])
def test_new_directory_that_came_before_its_parent(early: bool) -> None:
    """The listing of its parent came too late, so it takes the group that the layers below gave that one; what came
    after the listing keeps the record's."""
    new = msgspec.structs.replace(directory(b"d/e", implied=True), early=early)
    made = msgspec.structs.replace(outline(ROOT, directory(b"d", 0o755), new), source=Source.RECORD)
    shim = hide_shim(made, below(ROOT, directory(b"d", 0o2750, gid=50)))
    assert [entry.gid for entry in shim.directories if entry.path == b"d/e"] == ([50] if early else [])


def test_new_directory_in_a_setgid_one_after_a_deletion() -> None:
    """What the layer deletes and makes again takes nothing from below but the group of the directory around it."""
    made = outline(ROOT, directory(b"d", implied=True), directory(b"d/e", implied=True), whiteouts=[b"d/e"])
    shim = hide_shim(made, below(directory(b"d", 0o2750, gid=50), directory(b"d/e", 0o700, uid=9)))
    assert shim.directories[1:] == (directory(b"d", 0o2750, gid=50), directory(b"d/e", gid=50))


@pytest.mark.parametrize(
    ("whiteouts", "opaques", "inherits"),
    [
        ([], [], True),
        ([b"d"], [], False),
        ([b"d/e"], [], False),
        ([], [b"d"], False),
        ([], [b"d/e"], True),
        ([b"d/e/x"], [], True),
        ([], [b""], True),
        ([b"d/ee", b"d/f"], [b"dd", b"d/f"], True),
    ],
)
def test_implied_directory_that_is_cut_off(whiteouts: list[bytes], opaques: list[bytes], inherits: bool) -> None:
    """Under a deletion or an opaque directory nothing comes from below; an opaque directory itself keeps the lower
    one's metadata and loses its content, and a mark on the root does nothing."""
    made = outline(ROOT, directory(b"d"), directory(b"d/e", implied=True), whiteouts=whiteouts, opaques=opaques)
    shim = hide_shim(made, below(directory(b"d/e", 0o700)))
    assert (directory(b"d/e", 0o700) in shim.directories) is inherits


def test_implied_directory_under_the_layer_s_own_device() -> None:
    """A deletion that the kernel sees by itself cuts off the metadata below as a raw marker does."""
    made = Outline(Source.RECORD, devices=(b"d",), directories=(ROOT, directory(b"d"), directory(b"d/e", implied=True)))
    assert paths(hide_shim(made, below(directory(b"d/e", 0o700)))) == [b""]


def test_implied_directory_that_holds_a_marker() -> None:
    """A marker whose parent exists only below: one directory, both for the device and with the lower's metadata."""
    made = outline(ROOT, directory(b"d", implied=True), whiteouts=[b"d/x"], hidden=[b"d/.wh.x"])
    shim = hide_shim(made, below(directory(b"d", 0o700, uid=5)))
    assert shim == Shim((ROOT, directory(b"d", 0o700, uid=5)), (b"d/.wh.x",))


def test_root_takes_the_lower_s_metadata() -> None:
    """A pull passes over a tar's entry for the root: what is below stays, but for the time."""
    made = outline(directory(b"", 0o700, uid=9, mtime=7))
    assert hide_shim(made, below(directory(b"", 0o711, uid=1, mtime=8))).directories == (
        directory(b"", 0o711, uid=1, mtime=7),
    )
    assert hide_shim(made, nothing_below).directories == (directory(b"", mtime=7),)


def test_own_catalog_from_below_is_copied() -> None:
    """The image's own file of that name in a lower layer would be hidden with this layer's marker: a copy is shown."""
    own = Entry(b"d/.cvmfscatalog", FILE, uid=1, mtime=2, size=4, xattrs={"user.x": b"1"}, group=3)
    made = outline(ROOT, directory(b"d"), hidden=[CATALOG, b"d/.cvmfscatalog"])
    shim = hide_shim(made, below(own, directory(b""), content=b"mine"))
    assert shim.whiteouts == (CATALOG,)
    assert shim.files == ((msgspec.structs.replace(own, group=0), b"mine"),)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"whiteouts": [CATALOG]}, Entry(CATALOG, FILE)),
        ({}, Entry(CATALOG, stat.S_IFLNK | 0o777)),
        ({}, directory(CATALOG)),
    ],
)
def test_catalog_from_below_that_is_not_copied(fields: dict[str, Any], found: Entry) -> None:
    """Not where this layer deletes it, and only a regular file."""
    shim = hide_shim(outline(ROOT, hidden=[CATALOG], **fields), below(found))
    assert (shim.whiteouts, shim.files) == ((CATALOG,), ())


def test_raw_marker_names_from_below_are_not_copied() -> None:
    """Only catalog markers can be an image's own file; a `.wh.` name never is."""
    shim = hide_shim(outline(ROOT, hidden=[b".wh.x"]), below(Entry(b".wh.x", FILE)))
    assert (shim.whiteouts, shim.files) == ((b".wh.x",), ())


def test_a_repository_that_does_not_answer_is_not_an_empty_one() -> None:
    """What looking below raises reaches the caller: a shim made without an answer would be kept."""

    def fail(path: bytes) -> Found | None:
        raise TimeoutError("below")

    with pytest.raises(TimeoutError):
        hide_shim(outline(ROOT, directory(b"d", implied=True)), fail)


# --- white, below the layer


@pytest.mark.parametrize(
    ("whiteouts", "opaques", "devices", "directories"),
    [
        ([b"x"], [], [b"x"], [b""]),
        ([b"d/x", b"d/y"], [], [b"d/x", b"d/y"], [b"", b"d"]),
        ([], [b"d"], [b"d"], [b""]),
        ([], [b"d", b"d/e"], [b"d"], [b""]),
        ([b"d", b"d/x"], [b"d/e"], [b"d"], [b""]),
        ([b"d"], [b"d"], [b"d"], [b""]),
        ([b"d/e/x"], [b"", b"d/f"], [b"d/e/x", b"d/f"], [b"", b"d", b"d/e"]),
        ([b"a:b/c,d", b"a\\b", b"\xff/ =\n"], [], [b"a:b/c,d", b"a\\b", b"\xff/ =\n"], [b"", b"a:b", b"\xff"]),
        ([b"d", b"d-e/x", b"dd/y"], [], [b"d", b"d-e/x", b"dd/y"], [b"", b"d-e", b"dd"]),
    ],
)
def test_white(whiteouts: list[bytes], opaques: list[bytes], devices: list[bytes], directories: list[bytes]) -> None:
    """A device for each deletion and each opaque directory, but not below another one; plain directories around."""
    shim = white_shim(outline(whiteouts=whiteouts, opaques=opaques))
    assert shim is not None
    assert (list(shim.whiteouts), paths(shim)) == (sorted(devices), sorted(directories))
    assert all(entry == directory(entry.path) for entry in shim.directories)


@pytest.mark.parametrize("opaques", [[], [b""]])
def test_no_white(opaques: list[bytes]) -> None:
    """A layer that deletes nothing needs none; the mark on the root is ignored, as by the kernel in a real pull."""
    assert white_shim(outline(ROOT, opaques=opaques, hidden=[b".wh..wh..opq"])) is None


# --- from a record


def head_outline(notation: Notation, extras: Iterable[bytes] = (), own: Iterable[bytes] = ()) -> Outline:
    entries = [ROOT, directory(b"d"), directory(b"o"), *(Entry(path, FILE) for path in own)]
    made = make_record(Digest("a" * 64), Digest("b" * 64), notation, entries, Markers((b"d/x",), (b"o",)), [*extras])
    return outline_of(made.head)


def test_outline_of_a_raw_record() -> None:
    """Raw markers are hidden and applied."""
    made = head_outline(Notation.OCI)
    assert made.hidden == (CATALOG, b"d/.wh.x", b"o/.wh..wh..opq")
    assert (made.whiteouts, made.opaques) == ((b"d/x",), (b"o",))


def test_outline_of_a_record_with_overlay_s_marks() -> None:
    """The kernel sees the layer's whiteouts itself; opaque marks are attributes, which a publication may lose."""
    made = head_outline(Notation.OVERLAY)
    assert (made.hidden, made.whiteouts, made.opaques) == ((CATALOG,), (), (b"o",))
    assert made.devices == (b"d/x",)
    assert white_shim(made) == Shim((directory(b""),), (b"o",))


def test_outline_keeps_the_image_s_own_catalogs() -> None:
    """A file that the record calls the image's own is shown, at the root too; extras are hidden wherever they are."""
    assert head_outline(Notation.OVERLAY, own=[CATALOG]).hidden == ()
    assert head_outline(Notation.OVERLAY, extras=[b"d/.cvmfscatalog"], own=[b"o/.cvmfscatalog"]).hidden == (
        *(CATALOG, b"d/.cvmfscatalog"),
    )


# --- for any outline

names = st.sampled_from([b"a", b"b", b"a-", CATALOG, b".wh.a", b"\xff"])
some_paths = st.lists(names, min_size=1, max_size=3).map(b"/".join)
sets = st.lists(some_paths | st.just(b""), max_size=5)
directories = st.builds(
    Entry, some_paths, st.sampled_from([DIRECTORY, stat.S_IFDIR | 0o700]), st.integers(0, 3), implied=st.booleans()
)
outlines = st.builds(
    lambda d, w, o, h: outline(*d, whiteouts=w, opaques=o, hidden=h),
    st.lists(directories, max_size=6, unique_by=lambda entry: entry.path),
    sets,
    sets,
    sets,
)
belows = st.lists(
    st.builds(Entry, some_paths, st.sampled_from([stat.S_IFDIR | 0o711, FILE, stat.S_IFLNK | 0o777])),
    max_size=8,
    unique_by=lambda entry: entry.path,
)


def assert_can_be_written(shim: Shim) -> None:
    """No path twice, nothing below what is not a directory, each parent there and before its children."""
    made = [*paths(shim), *shim.whiteouts, *(entry.path for entry, _ in shim.files)]
    assert len(made) == len(set(made))
    assert paths(shim)[0] == b""
    assert paths(shim) == sorted(paths(shim))
    assert all(stat.S_ISDIR(entry.mode) for entry in shim.directories)
    for path in made:
        assert set(ancestors(path)) <= set(paths(shim))


@given(outlines, belows)
def test_any_shim_can_be_written(made: Outline, lower: list[Entry]) -> None:
    """For any outline over anything both shims are trees, and a device never has a directory's name."""
    hide, white = hide_shim(made, below(*lower)), white_shim(made)
    assert_can_be_written(hide)
    hidden = {*hide.whiteouts, *(entry.path for entry, _ in hide.files)}
    for path in set(made.hidden) - {b""}:
        assert not hidden.isdisjoint({path, *ancestors(path)})
    if white is not None:
        assert_can_be_written(white)
        for path in {*made.whiteouts, *made.opaques} - {b""}:
            assert not set(white.whiteouts).isdisjoint({path, *ancestors(path)})


@given(outlines, belows, st.randoms())
def test_key_is_stable(made: Outline, lower: list[Entry], random: Any) -> None:
    """The same outline in another order, from the disk or from memory, is the same shim under the same key."""
    shuffled = msgspec.structs.replace(
        made, **{field: tuple(random.sample(getattr(made, field), len(getattr(made, field)))) for field in
                 ("whiteouts", "opaques", "hidden", "directories")}
    )  # fmt: skip
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(shuffled), type=Outline)
    one, two = hide_shim(made, below(*lower)), hide_shim(again, below(*lower))
    assert (one, one.key) == (two, two.key)
    assert white_shim(made) == white_shim(again)


def test_key_does_not_depend_on_the_order_of_attributes() -> None:
    """Two nodes, or two kernels, list attributes in different orders."""
    one, two = {"user.a": b"1", "user.b": b"2"}, {"user.b": b"2", "user.a": b"1"}
    assert Shim((directory(b"", xattrs=one),), ()).key == Shim((directory(b"", xattrs=two),), ()).key


def test_key_tells_shims_apart() -> None:
    """Everything that is written is in the key."""
    shims = [
        Shim((ROOT,), ()), Shim((ROOT,), (b"a",)), Shim((directory(b"", 0o700, mtime=7),), ()),
        Shim((ROOT,), (), ((Entry(b"f", FILE), b""),)), Shim((ROOT,), (), ((Entry(b"f", FILE), b"x"),)),
        Shim((directory(b"", mtime=8),), ()), Shim((directory(b"", mtime=7, xattrs={"user.a": b""}),), ()),
    ]  # fmt: skip
    assert len({shim.key for shim in shims}) == len(shims)
