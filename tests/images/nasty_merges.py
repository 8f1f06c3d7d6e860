"""Nasty cases of how layers merge: deletions, opaque marks, changes of type, unlisted directories."""

from collections.abc import Iterable
from typing import Final

from tests.images.stack import Collection
from tests.images.tarlayer import Dir, Entry, File, Opaque, Symlink, Whiteout

MERGES: Final = Collection()
case = MERGES.case

Described = Iterable[Iterable[Entry]]

BASE: Final[tuple[Entry, ...]] = (
    Dir("etc"),
    File("etc/motd", b"welcome\n"),
    File("etc/passwd", b"root:x:0:0::/root:/bin/sh\n"),
    Dir("opt", uid=7, gid=8),
    Dir("opt/app", mode=0o750, uid=1000, gid=1000),
    File("opt/app/old", b"old\n"),
    Dir("opt/app/sub"),
    File("opt/app/sub/deep", b"deep\n"),
    Dir("tmp", mode=0o1777),
)


@case(present=("etc/passwd",), absent=("etc/motd", "etc/.wh.motd"))
def deleted_file() -> Described:
    """A file of the base is gone, and so is the marker that deleted it."""
    return [BASE, [Dir("etc"), Whiteout("etc/motd")]]


@case(present=("opt",), absent=("opt/app", "opt/app/old", "opt/app/sub/deep", "opt/.wh.app"))
def deleted_directory() -> Described:
    """A whole directory is gone with one marker."""
    return [BASE, [Dir("opt", uid=7, gid=8), Whiteout("opt/app")]]


@case(absent=("etc", "opt", ".wh.etc"), present=("tmp",))
def deleted_at_the_root() -> Described:
    """Markers that stand in the root of the layer."""
    return [BASE, [Whiteout("etc"), Whiteout("opt")]]


@case(present=("etc/motd",), absent=("etc/passwd",))
def deleted_then_made_again_above() -> Described:
    """Deleted in the second layer and made anew in the third: the third one's is seen."""
    again = [Dir("etc"), File("etc/motd", b"new\n", mode=0o600)]
    return [BASE, [Dir("etc"), Whiteout("etc/motd"), Whiteout("etc/passwd")], again]


@case(present=("opt/app/new",), absent=("opt/app/old", "opt/app/sub", "opt/app/.wh..wh..opq"))
def opaque_directory() -> Described:
    """A directory emptied by an opaque mark and filled by the same layer."""
    return [BASE, [Dir("opt/app", mode=0o700), Opaque("opt/app"), File("opt/app/new", b"new\n")]]


@case(present=("opt/app/new", "opt/app/sub/own"), absent=("opt/app/old", "opt/app/sub/deep"))
def opaque_mark_after_the_content() -> Described:
    """An opaque mark acts on the layers below wherever it stands in its own tar."""
    filled = [Dir("opt/app"), File("opt/app/new"), Dir("opt/app/sub"), File("opt/app/sub/own")]
    return [BASE, [*filled, Opaque("opt/app")]]


@case(present=("opt/app",), absent=("opt/app/old", "opt/app/sub"))
def opaque_directory_not_listed() -> Described:
    """Only the mark is in the tar: the directory keeps the lower one's owner and mode, and is empty."""
    return [BASE, [Opaque("opt/app")]]


@case(present=("opt/app/two",), absent=("opt/app/old", "opt/app/one"))
def opaque_over_opaque() -> Described:
    """An opaque directory over an opaque directory: the topmost hides both."""
    one = [Dir("opt/app"), Opaque("opt/app"), File("opt/app/one")]
    return [BASE, one, [Dir("opt/app", mode=0o711), Opaque("opt/app"), File("opt/app/two")]]


@case(present=("opt/app/sub/own", "opt/app/beside"), absent=("opt/app/old", "opt/app/sub/deep"))
def opaque_inside_opaque() -> Described:
    """An opaque directory that holds an opaque directory, in one layer."""
    upper = [
        Dir("opt/app"),
        Opaque("opt/app"),
        File("opt/app/beside"),
        Dir("opt/app/sub"),
        Opaque("opt/app/sub"),
    ]
    return [BASE, [*upper, File("opt/app/sub/own")]]


@case(present=("opt/app/new", "opt/app/later"), absent=("opt/app/old",))
def merged_over_opaque() -> Described:
    """A plain directory over an opaque one merges with it, and with nothing further below."""
    opaque = [Dir("opt/app"), Opaque("opt/app"), File("opt/app/new")]
    return [BASE, opaque, [Dir("opt/app"), File("opt/app/later")]]


@case(present=("opt/app/new", "etc/motd/inside"), absent=("opt/app/old",))
def opaque_over_other_types() -> Described:
    """Opaque marks where nothing is below, because of a marker, and where a file is."""
    upper = [Dir("opt/app"), Opaque("opt/app"), File("opt/app/new")]
    return [
        BASE,
        [Whiteout("opt/app")],
        [*upper, Dir("etc/motd"), Opaque("etc/motd"), File("etc/motd/inside")],
    ]


@case(present=("etc/motd", "opt/app/old", "only"), absent=(".wh..wh..opq",))
def opaque_at_the_root_of_the_layer() -> Described:
    """overlayfs ignores the mark on the root, and so does a real pull: everything stays."""
    return [BASE, [Opaque("."), File("only")]]


@case(present=("opt/app/again",), absent=("opt/app/old", "opt/app/sub"))
def directory_deleted_then_made_again_above() -> Described:
    """A marker in the second layer, the directory again in the third: what the base had in it stays away."""
    return [BASE, [Whiteout("opt/app")], [Dir("opt/app", mode=0o755), File("opt/app/again")]]


@case(present=("etc/motd",))
def same_layer_deletes_and_makes_a_file() -> Described:
    """A marker and the file itself in one layer: the marker means the layer below."""
    return [BASE, [Whiteout("etc/motd"), File("etc/motd", b"mine\n", mode=0o640)]]


@case(
    present=("opt/app/mine",),
    absent=("opt/app/old", "opt/app/sub"),
    pull="differs",
    pull_note="the directory that replaces the marker is not opaque: what was deleted comes back",
)
def same_layer_deletes_and_makes_a_directory() -> Described:
    """A marker and the directory itself in one layer: what the base had in it is gone."""
    return [BASE, [Whiteout("opt/app"), Dir("opt/app"), File("opt/app/mine")]]


@case(
    present=("opt/app/mine",),
    absent=("opt/app/old", "opt/app/sub"),
    pull="fails",
    pull_note="the marker's device cannot be made where the directory stands",
)
def same_layer_makes_and_deletes_a_directory() -> Described:
    """The same with the marker last; the order of members does not change what a marker means."""
    return [BASE, [Dir("opt/app"), File("opt/app/mine"), Whiteout("opt/app")]]


@case(present=("opt/app/old", "opt/app/sub"), absent=("opt/app/sub/deep",))
def marker_whose_parent_is_only_below() -> Described:
    """Nothing but a marker, three directories deep: they keep the owners and modes of the layer below."""
    return [BASE, [Whiteout("opt/app/sub/deep")]]


@case(present=("etc/motd", "nowhere", "nowhere/deeper"), absent=("etc/ghost", "nowhere/deeper/ghost"))
def marker_for_a_name_that_is_nowhere() -> Described:
    """Deleting what does not exist deletes nothing; the directories on the way are made."""
    return [BASE, [Whiteout("etc/ghost"), Whiteout("nowhere/deeper/ghost")]]


@case(present=("etc/motd",), absent=("etc/ghost",))
def marker_in_the_lowest_layer() -> Described:
    """A marker with no layer below it at all."""
    return [[*BASE, Whiteout("etc/ghost")], [File("etc/more")]]


@case(
    present=("d/listed", "d/unlisted/x"),
    pull="differs",
    pull_note="the lowest layer is unpacked without an overlay, and the mark takes away what its tar does not list",
)
def opaque_mark_in_the_lowest_layer() -> Described:
    """Below is nothing, so the mark hides nothing, not even what its own layer has in unlisted directories."""
    return [[Dir("d"), File("d/listed"), File("d/unlisted/x"), Opaque("d")], [File("y")]]


@case(present=("x",), absent=("x/inside", "y"))
def file_and_directory_by_turns() -> Described:
    """A file becomes a directory and a file again without any marker; beside it the other way round."""
    first = [File("x", b"1"), Dir("y"), File("y/inside")]
    second = [Dir("x", mode=0o700), File("x/inside"), File("y", b"2")]
    return [first, second, [File("x", b"3"), Dir("y"), File("y/again")], [Whiteout("y")]]


@case(present=("d/new",), absent=("d/old",))
def directory_after_file_after_directory() -> Described:
    """The file in the middle ends the merge: the upper directory does not see the lowest one's content."""
    return [[Dir("d", mode=0o700), File("d/old")], [File("d", b"file")], [Dir("d"), File("d/new")]]


@case(present=("lib/own", "usr/lib/libc", "bin"), absent=("usr/lib/own",))
def symlink_and_directory_by_turns() -> Described:
    """A symlink becomes a directory, a directory a symlink; neither writes through the link."""
    first = [
        Dir("usr"),
        Dir("usr/lib"),
        File("usr/lib/libc"),
        Symlink("lib", "usr/lib"),
        Dir("bin"),
        File("bin/sh"),
    ]
    return [first, [Dir("lib"), File("lib/own"), Symlink("bin", "usr/lib")]]


@case(
    present=("lib/own", "usr/lib/libc"),
    absent=("usr/lib/own", "lib/libc"),
    pull="differs",
    pull_note="metadata is copied from the directory to which the symlink leads",
)
def unlisted_directory_over_a_symlink() -> Described:
    """A child below what is a symlink in the layer below: the link becomes a new directory of 0755 0:0."""
    first = [Dir("usr"), Dir("usr/lib", mode=0o700), File("usr/lib/libc"), Symlink("lib", "usr/lib")]
    return [first, [File("lib/own")]]


@case(present=("d/new",), absent=("d/old",))
def unlisted_directory_over_a_file() -> Described:
    """A child below what is a file in the layer below, over a private directory: new, 0755 0:0."""
    return [[Dir("d", mode=0o700, uid=5), File("d/old")], [File("d", b"file")], [File("d/new")]]


@case(present=("tmp/foo", "priv/z", "priv/deep/deeper/x"))
def unlisted_directories() -> Described:
    """`/tmp` stays 1777, `/priv` stays 0700 and its owner's, with its attributes, at any depth."""
    private = Dir("priv", mode=0o700, uid=1000, gid=1000, xattrs={"user.kept": b"yes"})
    deep = [Dir("priv/deep", mode=0o2750, uid=1, gid=2), Dir("priv/deep/deeper", mode=0o711, uid=3, gid=4)]
    return [[*BASE, private, *deep], [File("tmp/foo"), File("priv/z")], [], [File("priv/deep/deeper/x")]]


@case(present=("g/sub/deep/x", "g/other/x", "g/sub/y"))
def unlisted_directories_in_a_setgid_one() -> Described:
    """New directories below a listed one with the setgid bit take its group, as mkdir gives it."""
    first = [Dir("g", mode=0o2775, uid=7, gid=50), File("g/sub/deep/x")]
    second = [Dir("g", mode=0o2775, uid=7, gid=51), File("g/other/x"), File("g/sub/y")]
    return [first, second, [File("g/third/x/y"), File("g/other/z")]]


@case(present=("g/early/x", "g/late/x", "g/above/x", "m/early", "m/late", "o/early", "o/late"))
def setgid_directories_listed_after_their_contents() -> Described:
    """What a tar needs before it lists the directory around it keeps root's group, also what only a marker needs; what
    it needs afterwards takes the listed group, and what a layer above needs there takes it too."""
    first = [File("g/early/x"), Dir("g", mode=0o2775, uid=7, gid=50), File("g/late/x")]
    second = [
        *(File("g/above/x"), Whiteout("m/early/gone"), Dir("m", mode=0o2775, gid=51), Whiteout("m/late/gone")),
        *(Opaque("o/early"), Dir("o", mode=0o2775, gid=52), Opaque("o/late")),
    ]
    return [first, second]


@case(present=("a/b/c/d", "srv/x/y"))
def unlisted_directories_of_nobody() -> Described:
    """Directories that no layer lists are 0755 and root's."""
    return [[File("a/b/c/d", b"1")], [File("srv/x/y", uid=9), File("a/b/more")]]


@case(present=("priv/one", "priv/two"))
def unlisted_between_two_listings() -> Described:
    """Listed, then implied, then listed with another mode, then implied: the last listing counts."""
    low, high = Dir("priv", mode=0o700, uid=1), Dir("priv", mode=0o710, gid=2)
    return [[low], [File("priv/one")], [high], [File("priv/two")]]


@case(
    present=("opt/app/sub/new",),
    absent=("opt/app/old", "opt/app/sub/deep"),
    pull="differs",
    pull_note="metadata is copied from the hidden directory under the opaque one",
)
def unlisted_directory_under_an_opaque_one() -> Described:
    """The directory hidden by the mark lends its metadata to nobody: the new one is 0755 0:0."""
    base = [Dir("opt"), Dir("opt/app"), Dir("opt/app/sub", mode=0o700, uid=1000), File("opt/app/sub/deep")]
    return [base, [Dir("opt/app"), Opaque("opt/app")], [File("opt/app/sub/new")]]


@case(
    present=("opt/app/sub/new",),
    absent=("opt/app/old", "opt/app/sub/deep"),
    pull="differs",
    pull_note="metadata is copied from the hidden directory under the opaque one",
)
def unlisted_directory_in_the_opaque_layer() -> Described:
    """The same, but in the layer that carries the mark."""
    base = [Dir("opt"), Dir("opt/app"), Dir("opt/app/sub", mode=0o700, uid=1000), File("opt/app/sub/deep")]
    return [base, [Dir("opt/app"), Opaque("opt/app"), File("opt/app/sub/new")]]


@case(present=("opt/app/new",), absent=("opt/app/old", "opt/app/sub"))
def unlisted_directory_after_a_deletion() -> Described:
    """Deleted in the second layer, implied in the third: new, 0755 0:0."""
    return [BASE, [Whiteout("opt/app")], [File("opt/app/new")]]


@case(
    present=("opt/app/sub/new",),
    absent=("opt/app/old", "opt/app/sub/deep"),
    pull="fails",
    pull_note="the metadata of opt/app is looked for below the marker's device: not a directory",
)
def unlisted_directory_below_a_deleted_one() -> Described:
    """The deletion was two directories up: every directory on the way is new, 0755 0:0."""
    return [BASE, [Whiteout("opt")], [File("opt/app/sub/new")]]


@case(present=("d/sub/x", "d", "e/y"), absent=())
def children_before_their_directories() -> Described:
    """A tar that lists a directory after what is in it: mode, owner and time are still the listed ones."""
    upper = [File("d/sub/x"), Dir("d/sub", mode=0o711), Dir("d", mode=0o700, uid=3), File("e/y")]
    return [[Dir("e", mode=0o1777)], upper]


@case(present=("d/x", "f"))
def members_listed_twice() -> Described:
    """A file and a directory that stand twice in one tar: the last one counts."""
    first = [Dir("d", mode=0o700), File("f", b"first", mode=0o600), File("d/x")]
    return [[*first, Dir("d", mode=0o755, uid=4), File("f", b"second")], [File("g")]]


@case(present=("./etc/motd", "etc/new"), absent=("etc/passwd", "opt/app/old"))
def names_with_dot_slash() -> Described:
    """`./etc/new`, as `tar -c .` writes it, markers included."""
    upper = [Dir("./etc"), File("./etc/new"), Whiteout("./etc/passwd"), Dir("./opt/app"), Opaque("./opt/app")]
    return [BASE, upper]
