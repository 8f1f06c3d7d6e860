"""Asks a snapshotter for layers, and publishes records that say what they like."""

import msgspec

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import AlreadyExists
from cvmfsrepo.tree import Entry, Notation, encode, make_record
from cvmfsrepo.whiteouts import Markers
from snapshotter import labels as label
from tests.snapshotter.layers import diff_id_of, lookup, pull
from tests.suites.contract import Verbs, fresh

OWN_ROOT = Entry(b"", 0o40755)


def reason(verbs: Verbs, layer: Digest) -> str:
    """Why a Prepare of a pull did not get its layer."""
    key = fresh("extract")
    verbs.prepare(key, "", pull(key, layer))
    return verbs.stat(key).labels[label.MISS]


def assert_served(verbs: Verbs, layer: Digest) -> str:
    """A hit; the name of its snapshot."""
    key = fresh("extract")
    try:
        verbs.prepare(key, "", pull(str(layer), layer))
    except AlreadyExists:
        (name,) = lookup(verbs, str(layer), "")
        return name
    raise AssertionError(verbs.stat(key).labels[label.MISS])


def record(layer: Digest, **fields: object) -> bytes:
    """A valid record but for the fields of its head that are given."""
    record = make_record(layer, diff_id_of(layer), Notation.OCI, [OWN_ROOT], Markers(), ())
    return encode(msgspec.structs.replace(record, head=msgspec.structs.replace(record.head, **fields)))
