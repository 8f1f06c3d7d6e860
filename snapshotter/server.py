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
from snapshotter.backup import BACKUP, Backups, keep_newer
from snapshotter.config import Config
from snapshotter.database import open_database
from snapshotter.disk import Disk, remove_tree
from snapshotter.filters import parse_filters
from snapshotter.inspect import Finding, findings
from snapshotter.kernel import mount_options
from snapshotter.log import event
from snapshotter.metastore import Metastore
from snapshotter.policy import Policies
from snapshotter.remote import RemoteLayers
from snapshotter.root import DATABASE, locked_root
from snapshotter.service import ErrorInterceptor, SnapshotsService
from snapshotter.shimstore import ShimStore
from snapshotter.snapshotter import Snapshotter
from snapshotter.socket import bind_private, bound_socket
from snapshotter.workers import Workers

_log = logging.getLogger(__name__)

FEW_WORKERS, MANY_WORKERS = 3, 256
"""Calls served at one time: as long as none is stuck, and while some are or wait as a policy says."""

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
    with opened(config) as snapshotter, bound_socket(Path(config.address), config.socket_group) as address:
        workers = Workers(FEW_WORKERS, MANY_WORKERS)
        server = grpc.server(workers, interceptors=[ErrorInterceptor()], options=_OPTIONS)  # type: ignore[arg-type]
        add_SnapshotsServicer_to_server(SnapshotsService(snapshotter), server)
        bind_private(address, lambda: _bind(server, address), config.socket_group)
        server.start()
        event(
            _log,
            logging.INFO,
            "serving",
            address=str(address),
            root=config.root,
            repositories=[r.name for r in config.served],
        )
        signal.sigwait(_STOP)
        event(_log, logging.INFO, "stopping", grace_seconds=GRACE)
        server.stop(GRACE).wait()


@contextlib.contextmanager
def opened(config: Config) -> Iterator[Snapshotter]:
    """A snapshotter on the configured root, swept of what a dead process left behind."""
    with locked_root(Path(config.root)) as root:
        store = open_database(root / DATABASE)
        try:
            disk, shims = Disk(root), ShimStore(root)
            keep_newer(store, disk)
            _sweep(store, disk, shims)
            _report(findings(store.walk(parse_filters([])), disk))
            with Backups(store, root / BACKUP, config.backup_interval), _probed(config) as repositories:
                remote, options = RemoteLayers(repositories, shims), mount_options(config.mount_options)
                yield Snapshotter(store, disk, remote, options, Policies(config.policy))
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


def _bind(server: grpc.Server, address: Path) -> None:
    try:
        server.add_insecure_port(f"unix:{quote(os.fsencode(address))}")
    except RuntimeError:  # grpc has told the reason on standard error
        raise FailedPrecondition("socket", str(address), "cannot be made", "take another --address") from None


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
