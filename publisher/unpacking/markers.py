"""What of a tar stands for a deletion: raw marker names, and the marks of an overlayfs whose upper directory somebody
packed as it was."""

import os
import posixpath
from dataclasses import dataclass, field
from typing import NoReturn

from cvmfsrepo.errors import InvalidArgument
from cvmfsrepo.tree import Notation
from cvmfsrepo.whiteouts import OCI_OPAQUE, OCI_PREFIX, Markers, is_oci_marker, oci_whiteout_target
from cvmfsrepo.xattrs import OVERLAY_PREFIXES
from publisher.unpacking.contained import REMEDY
from publisher.unpacking.members import Kind, Member

_RESERVED = OCI_PREFIX + OCI_PREFIX


@dataclass(slots=True)
class Deletions:
    """What a layer deletes, collected in the tar's order. `names` come from `.wh.` names and are about the layers
    below only; `devices` from 0:0 devices, which are entries like others, so a later member replaces them."""

    names: dict[bytes, Member] = field(default_factory=dict)
    devices: dict[bytes, Member] = field(default_factory=dict)
    opaques: set[bytes] = field(default_factory=set)

    @property
    def whiteouts(self) -> dict[bytes, Member]:
        """The deleted paths, each with the member that says so."""
        return {**self.devices, **self.names}

    def take(self, member: Member) -> bool:
        """Whether the member is no entry of the tree but a marker, which is kept."""
        directory, name = posixpath.split(member.path)
        if any(is_oci_marker(part) for part in directory.split(b"/")):
            _refuse(member, "lies below a name that marks a deletion")
        if name == OCI_OPAQUE:
            self.opaques.add(directory)
        elif (target := oci_whiteout_target(name)) is not None:
            self.names[posixpath.join(directory, target)] = member
        elif is_oci_marker(name):
            _refuse(member, "is a deletion marker that names nothing")
        elif _is_device_zero(member) or (member.kind is Kind.HARD_LINK and member.target in self.devices):
            self.devices[member.path] = member
        else:
            self.devices.pop(member.path, None)
            return False
        return True

    def markers(self, notation: Notation, remade: frozenset[bytes]) -> Markers:
        """The marker list of the record. In overlay notation a directory that is deleted and made again carries an
        opaque mark."""
        opaques = self.opaques | remade if notation is Notation.OVERLAY else self.opaques
        return Markers(tuple(sorted(self.whiteouts)), tuple(sorted(opaques)))


def is_reserved(path: bytes) -> bool:
    """Whether a name is of AUFS's own book-keeping, which is neither an entry nor a marker."""
    *above, name = path.split(b"/")
    return any(part.startswith(_RESERVED) for part in above) or (name.startswith(_RESERVED) and name != OCI_OPAQUE)


def take_overlay_marks(member: Member) -> tuple[dict[str, bytes], bool]:
    """A member's attributes without overlayfs's own, and whether they made it an opaque directory.

    Its book-keeping (origin, impure, ...) means nothing on another disk. Attributes that take content from elsewhere
    are refused: the file in the tar is not what the container saw.
    """
    kept, opaque = dict[str, bytes](), False
    for name, value in member.xattrs.items():
        prefix = next((prefix for prefix in OVERLAY_PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            kept[name] = value
        elif name.removeprefix(prefix) in ("redirect", "metacopy"):
            _refuse(member, f"carries {name}: this tar is a raw upper directory of overlayfs, and incomplete")
        elif name == f"{prefix}opaque" and value == b"y" and member.kind is Kind.DIRECTORY:
            opaque = True
    return kept, opaque


def _is_device_zero(member: Member) -> bool:
    return member.kind is Kind.CHARACTER and member.device == (0, 0)


def _refuse(member: Member, problem: str) -> NoReturn:
    raise InvalidArgument("layer entry", os.fsdecode(member.path), problem, REMEDY)
