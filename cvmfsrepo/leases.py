"""Which layers a node uses, told to those who publish: what is under a lease is not collected. Pure.

A file of leases, or a feed, is JSON lines, one lease a line: an object with `format` ("cvmfs-leases"), `version` (1),
`node`, `time` (seconds since 1970, when the node looked) and `digests` (sorted, each `sha256:` and 64 hex digits). A
digest is a layer's, compressed or not, or that of an image's config. Keys may be added without a new version.
"""

from typing import Annotated

import msgspec

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss, InvalidArgument

FORMAT = "cvmfs-leases"
VERSION = 1
FILE_LIMIT = 64 << 20
"""Bytes of a file or feed: a node with a thousand layers writes 72 KB."""

_NODE_LIMIT = 255


class Lease(msgspec.Struct, frozen=True):
    """What one node used at one time."""

    format: str
    version: int
    node: Annotated[str, msgspec.Meta(min_length=1, max_length=_NODE_LIMIT)]
    time: Annotated[float, msgspec.Meta(ge=0)]
    digest_texts: tuple[str, ...] = msgspec.field(name="digests")

    @property
    def digests(self) -> tuple[Digest, ...]:
        return tuple(map(Digest.parse, self.digest_texts))

    def encode(self) -> bytes:
        """One line, with its end."""
        return msgspec.json.encode(self) + b"\n"


_decode_lines = msgspec.json.Decoder(Lease).decode_lines


def lease_of(node: str, time: int, digests: frozenset[Digest]) -> Lease:
    return Lease(FORMAT, VERSION, node[:_NODE_LIMIT], time, tuple(sorted(map(str, digests))))


def parse_leases(content: bytes, thing: str) -> tuple[Lease, ...]:
    """All leases of a file; there is at least one, for a file that holds none is one that was cut off. DataLoss where
    anything of it is not understood: what a node uses must never be taken for unused."""
    remedy = "nothing is collected until it is mended or no longer named"
    try:
        leases = tuple(_decode_lines(content))
        for lease in leases:
            if (lease.format, lease.version) != (FORMAT, VERSION):
                problem = f"is {lease.format!r} of version {lease.version}, which is not known here"
                raise DataLoss("lease", thing, problem, remedy)
            _ = lease.digests
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, InvalidArgument) as error:
        raise DataLoss("lease", thing, f"does not parse: {error}", remedy) from None
    if not leases:
        raise DataLoss("lease", thing, "is empty", remedy)
    return leases
