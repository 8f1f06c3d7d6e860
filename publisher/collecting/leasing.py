"""The leases of nodes, from files, directories and feeds. Whatever cannot be read stops the collection: it might have
named a layer under a container that runs."""

import os
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import FailedPrecondition, InvalidArgument, ResourceExhausted, Unavailable
from cvmfsrepo.leases import FILE_LIMIT, Lease, parse_leases

DAY = 86400.0
_PATIENCE = 30.0
"""Seconds for a feed to answer."""

_REMEDY = "nothing is collected until it can be read or is no longer named"


def leased_digests(sources: Iterable[str], now: float, days: float, warn: Callable[[str], None]) -> dict[Digest, str]:
    """For each digest under a live lease its node. A lease that is older than `days` has expired, and is told."""
    leased = dict[Digest, str]()
    for source in sources:
        for lease in read_source(source):
            if now - lease.time > days * DAY:
                age = (now - lease.time) / DAY
                warn(f"lease of node {lease.node!r} is {age:.0f} days old and protects nothing any more")
                continue
            leased.update(dict.fromkeys(lease.digests, lease.node))
    return leased


def read_source(source: str) -> Iterator[Lease]:
    """The leases of a file, of all files *.json of a directory, or of an http or https feed."""
    if "://" in source:
        yield from parse_leases(_fetched(source), source)
        return
    path = Path(source)
    try:
        found = sorted(name for name in os.listdir(path) if name.endswith(".json")) if path.is_dir() else None
        if found is not None and not found:
            raise FailedPrecondition("directory of leases", source, "holds no *.json", f"is it mounted? {_REMEDY}")
        for file in [path] if found is None else [path / name for name in found]:
            yield from parse_leases(_limited(file.read_bytes(), str(file)), str(file))
    except OSError as error:
        raise Unavailable("leases", source, f"cannot be read: {error.strerror}", _REMEDY) from None


def _fetched(url: str) -> bytes:
    if not url.startswith(("http://", "https://")):
        raise InvalidArgument("leases", url, "is no http or https address", "give a file, a directory or such one")
    try:
        with urllib.request.urlopen(url, timeout=_PATIENCE) as answer:
            return _limited(answer.read(FILE_LIMIT + 1), url)
    except (OSError, ValueError) as error:
        raise Unavailable("leases", url, f"cannot be fetched: {error}", _REMEDY) from None


def _limited(content: bytes, source: str) -> bytes:
    if len(content) > FILE_LIMIT:
        raise ResourceExhausted("leases", source, f"are more than {FILE_LIMIT} bytes", _REMEDY)
    return content
