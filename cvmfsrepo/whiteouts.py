"""Both notations of a deletion, never mixed, and the marker list of a layer.

OCI's, in a tar and in a layer that was ingested raw: an empty file `.wh.NAME` deletes NAME of the layers below,
`.wh..wh..opq` deletes everything that they have in its directory. Overlayfs's, on a disk: a character device 0:0
named NAME, and an attribute on the directory. Paths inside a layer are bytes, relative, without a leading slash;
the root is b"". Source: OCI image specification, "Whiteouts"; Linux `Documentation/filesystems/overlayfs.rst`.
"""

import posixpath
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

OCI_PREFIX = b".wh."
OCI_OPAQUE = b".wh..wh..opq"
_OCI_RESERVED = b".wh..wh."

OVERLAY_OPAQUE = "trusted.overlay.opaque"
OVERLAY_OPAQUE_NAMES = (OVERLAY_OPAQUE, "user.overlay.opaque")
"""With and without the mount option `userxattr`."""


def is_oci_marker(name: bytes) -> bool:
    """Whether a base name belongs to OCI's notation, and so never to the image's own files."""
    return name.startswith(OCI_PREFIX)


def oci_whiteout_target(name: bytes) -> bytes | None:
    """The base name that `.wh.NAME` deletes; None for other names, AUFS's reserved ones and those that would
    delete the directory itself or its parent."""
    if not is_oci_marker(name) or name.startswith(_OCI_RESERVED):
        return None
    target = name.removeprefix(OCI_PREFIX)
    return None if target in (b"", b".", b"..") else target


def is_overlay_whiteout(mode: int, device: int) -> bool:
    """Whether a stat result (`st_mode`, `st_rdev`) is overlayfs's whiteout."""
    return stat.S_ISCHR(mode) and device == 0


@dataclass(frozen=True, slots=True)
class Markers:
    """What a layer deletes: paths of `whiteouts` and of `opaques` (directories), each sorted."""

    whiteouts: tuple[bytes, ...] = ()
    opaques: tuple[bytes, ...] = ()

    @classmethod
    def of_oci_names(cls, paths: Iterable[bytes]) -> Self:
        """The marker list that a set of raw marker paths stands for."""
        whiteouts, opaques = set(), set()
        for path in paths:
            directory, name = posixpath.split(path)
            if name == OCI_OPAQUE:
                opaques.add(directory)
            elif target := oci_whiteout_target(name):
                whiteouts.add(posixpath.join(directory, target))
        return cls(tuple(sorted(whiteouts)), tuple(sorted(opaques)))


def ancestors(path: bytes) -> list[bytes]:
    """The directories above a path, the root b"" first, the path itself not among them."""
    parts = path.split(b"/")
    return [] if path == b"" else [b"/".join(parts[:depth]) for depth in range(len(parts))]
