"""Nasty cases of single entries (names, types, metadata) and whole stacks (empty, repeated, deep, shared)."""

import struct
from collections.abc import Iterable
from typing import Final

from tests.images.stack import Collection
from tests.images.tarlayer import (
    MTIME_NS,
    SECOND,
    Device,
    Dir,
    Entry,
    Fifo,
    File,
    Hardlink,
    Opaque,
    Symlink,
    Whiteout,
)

ENTRIES: Final = Collection()
case = ENTRIES.case

Described = Iterable[Iterable[Entry]]

CAP_NET_RAW: Final = 13
_CAP_REVISION_2: Final = 0x02000000
_CAP_EFFECTIVE: Final = 0x000001
ODD_NAMES: Final = (
    *("a:b", "a,b", "a\\b", "a\\:b\\,c", "a=b", "a b", " lead", "trail ", "'single'", '"double"'),
    *("line\nbreak", "tab\there", "-dash", "%41", "$HOME", "*?[x]", "ünï", "\udcff\udcfe-bytes"),
    *("n" * 255, "é" * 127, "...", ".wh", "wh..wh..opq"),
)


def file_capability(*capabilities: int) -> bytes:
    """`security.capability` in the kernel's revision 2, permitted and effective, as setcap writes it."""
    bits = sum(1 << number for number in capabilities)
    return struct.pack("<5I", _CAP_REVISION_2 | _CAP_EFFECTIVE, bits & 0xFFFFFFFF, 0, bits >> 32, 0)


@case(present=ODD_NAMES)
def odd_names() -> Described:
    """Names holding what mount options, shells and decoders stumble over, of files and of directories."""
    files = [File(name, name.encode("utf-8", "surrogateescape")) for name in ODD_NAMES]
    return [files, [entry for name in ODD_NAMES for entry in (Dir(f"d/{name}"), File(f"d/{name}/x"))]]


@case(
    present=("d/kept", *(f"d/{name}" for name in ODD_NAMES)),
    absent=tuple(f"d/{name}/x" for name in ODD_NAMES) + tuple(f"f/{name}" for name in ODD_NAMES if len(name) < 100),
)
def odd_names_deleted() -> Described:
    """The same names in markers and as opaque directories."""
    base = [
        File("d/kept"),
        *(entry for name in ODD_NAMES for entry in (Dir(f"d/{name}"), File(f"d/{name}/x"))),
    ]
    deletable = [name for name in ODD_NAMES if len(name) < 100]
    upper = [*(Opaque(f"d/{name}") for name in ODD_NAMES), *(Whiteout(f"f/{name}") for name in deletable)]
    return [[*base, *(File(f"f/{name}") for name in deletable)], upper]


@case(absent=("m" * 251, "d/" + "m" * 251), present=("n" * 252,))
def longest_names_that_a_marker_can_delete() -> Described:
    """A marker of 255 bytes; a name of 252 bytes and more can only go with its directory."""
    return [
        [File("m" * 251), File("n" * 252), File("d/" + "m" * 251)],
        [Whiteout("m" * 251), Whiteout("d/" + "m" * 251)],
    ]


@case(present=("/".join(["long" * 25] * 12) + "/end",))
def long_paths() -> Described:
    """A path of 1,200 bytes and a link target of 300: both only fit into pax records."""
    directory = "/".join(["long" * 25] * 12)
    return [[File(f"{directory}/end", b"end"), Symlink("link", "t/" * 150)], [File(f"{directory}/beside")]]


@case(present=(".cvmfscatalog", "data/.cvmfscatalog"))
def own_catalog_files() -> Described:
    """Files of the image itself that have the name by which CVMFS marks a nested catalog."""
    return [
        [File(".cvmfscatalog", b"mine\n", mode=0o600), Dir("data"), File("data/.cvmfscatalog")],
        [File("x")],
    ]


@case(present=("data/x",), absent=(".cvmfscatalog", "data/.cvmfscatalog"))
def own_catalog_files_deleted() -> Described:
    """The image's own such files, deleted again by a marker and by an opaque directory."""
    base = [File(".cvmfscatalog", b"mine\n"), Dir("data"), File("data/.cvmfscatalog")]
    return [base, [Whiteout(".cvmfscatalog"), Dir("data"), Opaque("data"), File("data/x")]]


@case(present=("bin/su", "bin/write", "tmp", "srv"))
def special_mode_bits() -> Described:
    """setuid, setgid and sticky, also of files that are not root's; a mode of 0000."""
    programs = [File("bin/su", b"#!", mode=0o4755), File("bin/write", b"#!", mode=0o2755, gid=5)]
    others = [File("bin/all", mode=0o7777, uid=33, gid=33), File("bin/none", mode=0)]
    return [
        [*programs, *others, Dir("tmp", mode=0o1777), Dir("srv", mode=0o2775, gid=50)],
        [File("srv/x", gid=50)],
    ]


@case(present=("dev/null", "dev/sda", "dev/pipe"), absent=("dev/tty",))
def devices_and_fifo() -> Described:
    """Character and block devices, large numbers, a fifo; one deleted, one replaced."""
    base = [Dir("dev"), Device("dev/null", 1, 3, mode=0o666), Device("dev/tty", 5, 0, gid=5, mode=0o620)]
    blocks = [
        Device("dev/sda", 8, 0, block=True, mode=0o660, gid=6),
        Device("dev/big", 300, 70000, mode=0o600),
    ]
    return [
        [*base, *blocks, Fifo("dev/pipe", mode=0o622)],
        [Whiteout("dev/tty"), Fifo("dev/big"), File("dev/x")],
    ]


@case(present=("a/one", "a/two", "b/three", "b/link2"), absent=("a/gone",))
def hard_links() -> Described:
    """Names of one file in one directory and in two, of a symlink and of a device; one name deleted above."""
    files = [
        File("a/one", b"shared\n", uid=3),
        Hardlink("a/two", "a/one", uid=3),
        Hardlink("b/three", "a/one", uid=3),
    ]
    links = [Symlink("b/link", "nowhere"), Hardlink("b/link2", "b/link", mode=0o777)]
    nodes = [Device("b/null", 1, 3), Hardlink("b/null2", "b/null")]
    pair = [File("a/gone", b"pair"), Hardlink("a/stays", "a/gone")]
    return [[*files, *links, *nodes, *pair], [Whiteout("a/gone"), File("b/three", b"alone\n")]]


@case(present=("a/1", "b/2"))
def hard_links_in_two_layers() -> Described:
    """Two layers hold the same names linked, with other content: only the upper group is seen."""
    low = [File("a/1", b"low"), Hardlink("b/2", "a/1"), Hardlink("b/3", "a/1")]
    return [low, [File("b/2", b"high"), Hardlink("a/1", "b/2")]]


@case(present=("bin/ping", "data", "data/blob"))
def extended_attributes() -> Described:
    """`user.*` with any bytes, a file capability; gone where the file is replaced without them."""
    odd = {"user.bytes": b"\0\xff\n=\0", "user.long": b"v" * 1000}
    ping = File("bin/ping", b"ELF", mode=0o755, xattrs={"security.capability": file_capability(CAP_NET_RAW)})
    base = [
        ping,
        Dir("data", xattrs={"user.dir": b"d"}),
        File("data/blob", xattrs=odd),
        File("data/x", xattrs=odd),
    ]
    return [
        base,
        [File("data/x", b"replaced"), File("bin/arping", mode=0o755, xattrs=dict(ping.xattrs), uid=2)],
    ]


@case(present=("loop1", "loop2", "self", "dangling", "up", "bytes"))
def symlinks() -> Described:
    """Loops, dangling, absolute, climbing out of the root, bytes that are not UTF-8, owned by a user."""
    loops = [Symlink("loop1", "loop2"), Symlink("loop2", "loop1"), Symlink("self", "self")]
    odd = [Symlink("up", "../../../../etc/passwd"), Symlink("bytes", "\udcff/ünï"), Symlink("abs", "/abs/x")]
    return [
        [*loops, *odd, Symlink("dangling", "no/where", uid=7, gid=8), File("abs-x")],
        [Symlink("self", "abs-x")],
    ]


@case(
    present=("x",),
)
def listed_root() -> Described:
    """The base lists `./` with a mode and an owner of its own, the layer above does not: a pull ignores the entry."""
    return [[Dir(".", mode=0o750, uid=5, gid=6), File("x")], [File("y")]]


@case(present=("x", "y"))
def listed_plain_root() -> Described:
    """Each layer lists `./` as 0755 0:0, as many tools do."""
    return [[Dir("."), File("x")], [Dir("."), File("y")]]


@case(present=("d/file", "link"))
def nanosecond_times() -> Described:
    """Times with nanoseconds of files, directories and symlinks; 1970, and after 2038."""
    odd = MTIME_NS + 123_456_789
    base = [
        Dir("d", mtime_ns=odd),
        File("d/file", mtime_ns=odd + 1),
        Symlink("link", "d", mtime_ns=MTIME_NS + 1),
    ]
    return [base, [File("epoch", mtime_ns=0), File("late", mtime_ns=5_000_000_000 * SECOND + 999_999_999)]]


@case(present=("big", "dir/x"))
def large_ids() -> Described:
    """Owners that only fit into pax records."""
    return [
        [File("big", uid=4_000_000_000, gid=2_097_152), Dir("dir", uid=3_000_000, gid=1)],
        [File("dir/x", uid=65534)],
    ]


@case(present=("d/x", "y"), closed=False)
def tars_without_an_end() -> Described:
    """Tars that stop at their last member's last byte, without padding and end, as `umoci insert` writes them."""
    return [[Dir("d"), File("d/x", b"nine bytes")], [Symlink("s", "d")], [File("y", b"0" * 512)], []]


@case(present=("x", "y"))
def empty_layers() -> Described:
    """Layers with no member at all, at the bottom, in the middle and on top."""
    return [[], [File("x")], [], [File("y")], []]


@case(present=("d/x", "d/y"), absent=("d/z",))
def one_layer_repeated() -> Described:
    """The same layer three times in one image: it brings back what was deleted and takes nothing else."""
    layer = [Dir("d"), File("d/x", b"x"), Whiteout("d/z")]
    return [[File("d/z")], layer, [Whiteout("d"), File("keep")], layer, [File("d/y"), File("d/z")], layer]


def _numbered_layer(number: int) -> list[Entry]:
    layer: list[Entry] = [
        File(f"layer/{number:03}", str(number).encode()),
        File("count", str(number).encode()),
    ]
    if number > 7:
        layer.append(Whiteout(f"layer/{number - 7:03}"))
    if number % 10 == 0:
        layer += [Dir("roll", mode=0o700 + number // 10), Opaque("roll")]
    if number % 10 in (9, 0):
        layer.append(File(f"roll/{number:03}", mode=0o600))
    return layer


@case(present=("layer/099", "layer/100", "count", "roll/100"), absent=("layer/093", "roll/099", "layer/060"))
def hundred_layers() -> Described:
    """A file added, one changed and one deleted by each of 100 layers; an opaque directory every tenth."""
    return [_numbered_layer(number) for number in range(1, 101)]


_SHARED_BASE: Final[list[Entry]] = [
    Dir("etc", mode=0o711),
    File("etc/motd"),
    Dir("var", mode=0o700, uid=9),
    File("var/x"),
]
_SHARED_A: Final[list[Entry]] = [File("etc/a"), Whiteout("var/x"), File("var/a"), File("both", b"a")]
_SHARED_B: Final[list[Entry]] = [
    Dir("etc"),
    Opaque("etc"),
    File("etc/b"),
    Dir("var", mode=0o755),
    File("both", b"b"),
]


@case(present=("etc/b", "both"), absent=("etc/a", "var/x"))
def shared_layers_one_way() -> Described:
    """Base, A, B; `shared_layers_other_way` has the same layers under other parents."""
    return [_SHARED_BASE, _SHARED_A, _SHARED_B]


@case(present=("etc/a", "etc/b", "var/a"), absent=("etc/motd", "var/x"))
def shared_layers_other_way() -> Described:
    """Base, B, A: the directories that A does not list must take their metadata from another parent."""
    return [_SHARED_BASE, _SHARED_B, _SHARED_A]


@case(present=("var/a", "etc/a"), absent=("var/x", "etc/motd"))
def shared_layer_without_a_base() -> Described:
    """A alone: the directories that it does not list are new."""
    return [_SHARED_A]
