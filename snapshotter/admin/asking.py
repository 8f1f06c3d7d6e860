"""Whom a command asks: the daemon where one runs, else the disk. The database of a running daemon is never opened."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import msgspec

from cvmfsrepo.errors import ContractError, FailedPrecondition, NotFound, PermissionDenied
from cvmfsrepo.guarded import GuardedRepository
from cvmfsrepo.layout import Layout
from cvmfsrepo.repository import Repository
from snapshotter.admin.address import admin_address
from snapshotter.admin.client import AdminClient, is_served
from snapshotter.admin.facts import Facts, looked_at
from snapshotter.admin.values import Status
from snapshotter.config import Config
from snapshotter.database import open_database
from snapshotter.disk import Disk
from snapshotter.index.store import Index
from snapshotter.kernel import mount_options
from snapshotter.node import Node
from snapshotter.remote import RemoteLayers
from snapshotter.root import DATABASE, INDEX, LOCK
from snapshotter.shimstore import ShimStore

_AT_ONCE, _LONG = 10.0, 600.0
"""Seconds for a status: of what is in memory, and of what has to be measured."""


@contextlib.contextmanager
def asked(config: Config) -> Iterator[AdminClient | Facts]:
    """Somebody who answers the questions of `Facts`: the daemon, or what the disk says where none runs."""
    if is_served(admin_address(config)):
        with AdminClient(admin_address(config)) as client:
            yield client
        return
    with facts_on_disk(config) as facts:
        yield facts


@contextlib.contextmanager
def facts_on_disk(config: Config) -> Iterator[Facts]:
    """The answers of a node without a daemon. FailedPrecondition where one runs after all."""
    root, repositories = Path(config.root), guarded_repositories(config)
    check_no_daemon(config)
    if not (root / DATABASE).is_file():
        raise NotFound("state", str(root), "has no database: no daemon ever ran on it", "give --root or --config")
    store, disk, shims = open_database(root / DATABASE), Disk(root), ShimStore(root)
    index = Index(root / INDEX) if (root / INDEX).exists() else None
    try:
        remote, options = RemoteLayers(repositories, shims, index), mount_options(config.mount_options)
        yield Facts(Node(config, store, disk, shims, repositories, remote, options, index))
    finally:
        store.close()
        if index:
            index.close()


def status(config: Config, measure: bool = False) -> Status:
    """The daemon's status; where none runs what the disk says, and a look at each repository."""
    if is_served(admin_address(config)):
        with AdminClient(admin_address(config), _LONG if measure else _AT_ONCE) as client:
            return client.status(measure)
    silent = f"no daemon answers at {admin_address(config)}"
    try:
        with facts_on_disk(config) as facts:
            return msgspec.structs.replace(facts.status(measure), problem=silent)
    except ContractError as error:
        known = Status(False, version("cvmfs-snapshotter"), config.root, str(admin_address(config)))
        looked = tuple(map(looked_at, guarded_repositories(config)))
        return msgspec.structs.replace(known, repositories=looked, problem=f"{silent}; {error}")


def guarded_repositories(config: Config) -> list[GuardedRepository]:
    """The configured repositories, each behind its guard; nothing probes them."""
    return [GuardedRepository(Repository(one.name, Layout(one.root)), config.deadline) for one in config.served]


def check_no_daemon(config: Config) -> None:
    """Refuses where a daemon holds the root. The lock is only looked at: held by us it would keep one from starting."""
    try:
        lock = os.open(Path(config.root, LOCK), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except PermissionError:
        raise PermissionDenied("state", config.root, "may not be read", "run as root") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
        raise FailedPrecondition(
            "root directory", config.root, f"is in use by process {holder}, which does not answer at"
            f" {admin_address(config)}", "give the --config or --address with which it was started",
        ) from None  # fmt: skip
    finally:
        os.close(lock)
