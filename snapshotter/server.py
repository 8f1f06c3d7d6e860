"""The daemon: what starts and stops in which order. Containers do not notice either."""

import contextlib
import logging
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import grpc

from cvmfsrepo.errors import FailedPrecondition
from cvmfsrepo.guarded import GuardedRepository
from cvmfsrepo.layout import Layout
from cvmfsrepo.repository import Repository
from protos.containerd.services.snapshots.v1.snapshots_pb2_grpc import add_SnapshotsServicer_to_server
from protos.cvmfs.snapshotter.admin.v1.admin_pb2_grpc import add_AdminServicer_to_server
from snapshotter.admin.address import admin_address
from snapshotter.admin.facts import Facts
from snapshotter.admin.service import AdminService
from snapshotter.backup import BACKUP, Backups, keep_newer
from snapshotter.config import Config
from snapshotter.database import open_database
from snapshotter.disk import Disk, remove_tree
from snapshotter.filters import parse_filters
from snapshotter.index.indexer import indexed
from snapshotter.index.store import Index
from snapshotter.inspect import Finding, findings
from snapshotter.kernel import mount_options
from snapshotter.log import event
from snapshotter.metastore import Metastore
from snapshotter.node import RunningNode
from snapshotter.policy import Policies
from snapshotter.remote import RemoteLayers
from snapshotter.root import DATABASE, INDEX, locked_root
from snapshotter.service import ErrorInterceptor, SnapshotsService
from snapshotter.shimstore import ShimStore
from snapshotter.snapshotter import Snapshotter
from snapshotter.socket import bind_private, bound_socket
from snapshotter.workers import Workers

_log = logging.getLogger(__name__)

FEW_WORKERS, MANY_WORKERS = 3, 256
"""Calls served at one time: as long as none is stuck, and while some are or wait as a policy says."""

MOST_QUESTIONS = 16
"""Calls of the admin service at one time, while some are stuck; they take none of the threads above."""

GRACE = 10.0
"""Seconds that running calls get after SIGTERM."""

MOST_WARNINGS = 20
"""Of a damaged state."""

_STOP = frozenset({signal.SIGTERM, signal.SIGINT})

_OPTIONS = (
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
    ("grpc.so_reuseport", 0),
)


def serve(config: Config) -> None:
    """Serves until SIGTERM or SIGINT. Refuses to start, with what to do, rather than touch state it does not trust."""
    # Blocked before any thread starts, and taken by sigwait: a handler can come between a check and a wait and be lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    _allow_descriptors()
    with (
        opened_node(config) as node,
        bound_socket(Path(config.address), config.socket_group) as address,
        bound_socket(admin_address(config)) as admin,
    ):
        snapshots, facts = _server(FEW_WORKERS, MANY_WORKERS), _server(FEW_WORKERS, MOST_QUESTIONS)
        add_SnapshotsServicer_to_server(SnapshotsService(node.verbs), snapshots)
        add_AdminServicer_to_server(AdminService(Facts(node)), facts)
        bind_private(address, lambda: _bind(snapshots, address), config.socket_group)
        bind_private(admin, lambda: _bind(facts, admin, "admin-address"))
        facts.start()
        snapshots.start()
        event(
            _log,
            logging.INFO,
            "serving",
            address=str(address),
            admin=str(admin),
            root=config.root,
            repositories=[r.name for r in config.served],
        )
        signal.sigwait(_STOP)
        event(_log, logging.INFO, "stopping", grace_seconds=GRACE)
        facts.stop(0)
        snapshots.stop(GRACE).wait()


@contextlib.contextmanager
def opened(config: Config) -> Iterator[Snapshotter]:
    """The verbs of `opened_node`."""
    with opened_node(config) as node:
        yield node.verbs


@contextlib.contextmanager
def opened_node(config: Config) -> Iterator[RunningNode]:
    """A snapshotter on the configured root, swept of what a dead process left behind."""
    with locked_root(Path(config.root)) as root:
        store = open_database(root / DATABASE)
        try:
            disk, shims = Disk(root), ShimStore(root)
            keep_newer(store, disk)
            _sweep(store, disk, shims)
            _report(findings(store.walk(parse_filters([])), disk))
            with (
                Backups(store, root / BACKUP, config.backup_interval) as backups,
                _probed(config) as repositories,
                _indexed(config, root / INDEX, repositories) as index,
            ):
                remote, options = RemoteLayers(repositories, shims, index), mount_options(config.mount_options)
                verbs = Snapshotter(store, disk, remote, options, Policies(config.policy))
                yield RunningNode(config, store, disk, shims, repositories, remote, options, index, verbs, backups)
        finally:
            store.close()


@contextlib.contextmanager
def _probed(config: Config) -> Iterator[list[GuardedRepository]]:
    """The configured repositories, each behind its guard and probed until the end."""
    repositories = [
        GuardedRepository(Repository(one.name, Layout(one.root)), config.deadline, config.probe_interval)
        for one in config.served
    ]
    for repository in repositories:
        repository.start_probing()
    try:
        yield repositories
    finally:
        for repository in repositories:
            repository.stop_probing()


def _server(few: int, many: int) -> grpc.Server:
    workers = Workers(few, many)
    return grpc.server(workers, interceptors=[ErrorInterceptor()], options=_OPTIONS)  # type: ignore[arg-type]


@contextlib.contextmanager
def _indexed(config: Config, path: Path, repositories: list[GuardedRepository]) -> Iterator[Index | None]:
    """The index, kept up to date until the end, or None where the configuration wants none."""
    if not config.index:
        yield None
        return
    with indexed(path, repositories, config.index_interval, config.index_rate) as index:
        yield index


def _bind(server: grpc.Server, address: Path, option: str = "--address") -> None:
    try:
        server.add_insecure_port(f"unix:{quote(os.fsencode(address))}")
    except RuntimeError:  # grpc has told the reason on standard error
        raise FailedPrecondition("socket", str(address), "cannot be made", f"take another {option}") from None


def _sweep(store: Metastore, disk: Disk, shims: ShimStore) -> None:
    """Removes what no record needs: the set difference between the disk and the database."""
    with store.transaction() as transaction:
        known, keys = transaction.ids(), transaction.shim_keys()
    disk.set_aside(known)
    unneeded = [*disk.abandoned(), *shims.abandoned(), *shims.unused(keys | disk.kept_shims(known))]
    for path in unneeded:
        try:
            remove_tree(path) if path.is_dir() else path.unlink()
        except OSError as error:  # it is in nobody's way
            event(_log, logging.WARNING, "leftover not removed", path=str(path), detail=str(error))
    if unneeded:
        event(_log, logging.INFO, "swept what a dead process left", paths=len(unneeded))


def _report(found: list[Finding]) -> None:
    """One warning each, up to a number that a person reads."""
    for finding in found[:MOST_WARNINGS]:
        event(
            _log, logging.WARNING, "state damaged",
            path=finding.path, problem=finding.problem, remedy=finding.remedy,
        )  # fmt: skip
    if len(found) > MOST_WARNINGS:
        event(_log, logging.WARNING, "more state damaged", paths=len(found) - MOST_WARNINGS)


def _allow_descriptors() -> None:
    """Takes as many descriptors as the service may have: each connection needs one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
