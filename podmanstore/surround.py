"""What stands around a layer, by the file system with which containers are mounted. Pure.

It differs from a node's shims (`cvmfsrepo.shims`) in this: it depends on the layer alone. podman's own pull gives a
directory that a tar does not list default metadata, whatever the layers below have, so there is nothing to inherit.
Kernel overlayfs does not know raw markers (`.wh.x`); fuse-overlayfs reads them, in the layer and in a shim.
"""

import posixpath
from collections.abc import Callable

import msgspec

from cvmfsrepo.outline import CATALOG, Outline
from cvmfsrepo.shims import Shim, hide_shim, nothing_below, white_shim
from cvmfsrepo.tree import Entry
from cvmfsrepo.whiteouts import OCI_OPAQUE, is_oci_marker
from podmanstore.values import Mount

Shows = Callable[[bytes], bool]
"""Whether a layer's directory has something at a path."""


def hide_above(outline: Outline, mount: Mount, shows: Shows) -> Shim | None:
    """The shim above a layer; None where there is nothing to hide. The root's catalog marker is hidden only where
    there is one: a node hides it always, but here a layer with nothing to hide needs no directory of its own."""
    catalogs = [path for path in outline.hidden if not _is_marker(path) and (path != CATALOG or shows(CATALOG))]
    markers = [] if mount is Mount.FUSE else [path for path in outline.hidden if _is_marker(path)]
    if not catalogs and not markers:
        return None
    own = tuple(map(_own, outline.directories))
    needed = msgspec.structs.replace(outline, hidden=tuple(sorted((*catalogs, *markers))), directories=own)
    return hide_shim(needed, nothing_below)


def white_below(outline: Outline, mount: Mount) -> Shim | None:
    """The shim below a layer; None where it deletes nothing that the mount does not see in the layer itself."""
    if mount is not Mount.FUSE:
        return white_shim(outline)
    raw = _raw_opaques(outline)
    opaques = tuple(path for path in outline.opaques if path not in raw)
    return white_shim(msgspec.structs.replace(outline, whiteouts=(), opaques=opaques))


def problem_of(outline: Outline, mount: Mount, shows: Shows) -> str:
    """Why a layer cannot be shown right on every mount that is to be served, or "".

    In the shim above a layer stands a device named like each raw marker. The kernel shows it as the marker's deletion;
    fuse-overlayfs reads it as one more marker, which is about the layer itself: the right tree only where the layer has
    nothing of its own at that place.
    """
    if mount is not Mount.BOTH:
        return ""
    problem = ""
    if raw := _raw_opaques(outline):
        problem = f"has a raw opaque marker in {_shown(min(raw))}"
    elif beside := next((path for path in outline.whiteouts if shows(path)), None):
        problem = f"holds {_shown(beside)} beside the raw marker that deletes it"
    return f"{problem}, which no store shows right under the kernel and under fuse-overlayfs at once" if problem else ""


def _raw_opaques(outline: Outline) -> frozenset[bytes]:
    """Directories whose opaque mark is a raw marker in them."""
    hidden = frozenset(outline.hidden)
    return frozenset(path for path in outline.opaques if posixpath.join(path, OCI_OPAQUE) in hidden)


def _is_marker(path: bytes) -> bool:
    return is_oci_marker(posixpath.basename(path))


def _own(entry: Entry) -> Entry:
    """A directory as one that its tar lists; the root without its time, so that layers with nothing but a catalog
    marker share one shim."""
    return msgspec.structs.replace(entry, implied=False, mtime=entry.mtime if entry.path else 0)


def _shown(path: bytes) -> str:
    return repr("/" + path.decode(errors="backslashreplace"))
