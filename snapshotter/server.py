"""The daemon: what starts and stops in which order. Containers do not notice either."""

import contextlib
import errno
import logging
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import grpc

from cvmfsrepo.errors import FailedPrecondition, PermissionDenied
from cvmfsrepo.guarded import GuardedRepository
from cvmfsrepo.layout import Layout
from cvmfsrepo.repository import Repository
from protos.containerd.services.snapshots.v1.snapshots_pb2_grpc import add_SnapshotsServicer_to_server
from snapshotter.config import Config
from snapshotter.database import open_database
from snapshotter.disk import Disk, remove_tree
from snapshotter.kernel import mount_options
from snapshotter.log import event
from snapshotter.metastore import Metastore
from snapshotter.policy import Policies
from snapshotter.remote import RemoteLayers
from snapshotter.root import DATABASE, locked_root, make_private
from snapshotter.service import ErrorInterceptor, SnapshotsService
from snapshotter.shimstore import ShimStore
from snapshotter.snapshotter import Snapshotter
from snapshotter.workers import Workers

_log = logging.getLogger(__name__)

FEW_WORKERS, MANY_WORKERS = 3, 32
"""Calls served at one time: as long as none is stuck, and while some are."""

GRACE = 10.0
"""Seconds that running calls get after SIGTERM."""

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
    with opened(config) as snapshotter, bound_socket(Path(config.address)) as address:
        workers = Workers(FEW_WORKERS, MANY_WORKERS)
        server = grpc.server(workers, interceptors=[ErrorInterceptor()], options=_OPTIONS)  # type: ignore[arg-type]
        add_SnapshotsServicer_to_server(SnapshotsService(snapshotter), server)
        _bind(server, address)
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
            _sweep(store, disk, shims)
            with _probed(config) as repositories:
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


@contextlib.contextmanager
def bound_socket(address: Path) -> Iterator[Path]:
    """Makes way for our socket and removes it at the end. A live server's is refused; a dead one's file is removed."""
    try:
        make_private(address.parent)
    except OSError as error:
        raise PermissionDenied("socket", str(address), f"its directory cannot be made ({error.strerror})") from None
    if _is_live(address):
        raise FailedPrecondition(
            "socket", str(address), "is in use by a running server", "stop it, or take another --address"
        )
    address.unlink(missing_ok=True)
    try:
        yield address
    finally:
        address.unlink(missing_ok=True)


def _bind(server: grpc.Server, address: Path) -> None:
    """Binds the socket as 0600 from its first moment."""
    previous = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{quote(os.fsencode(address))}")
    except RuntimeError:  # grpc has told the reason on standard error
        raise FailedPrecondition("socket", str(address), "cannot be made", "take another --address") from None
    finally:
        os.umask(previous)


def _is_live(address: Path) -> bool:
    if os.path.lexists(address) and not address.is_socket():
        raise FailedPrecondition("socket", str(address), "is not a socket", "move it away, or take another --address")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(address))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
                return False
            raise FailedPrecondition("socket", str(address), f"cannot be used ({error.strerror or error})") from None
    return True


def _sweep(store: Metastore, disk: Disk, shims: ShimStore) -> None:
    """Removes what no record needs: the set difference between the disk and the database."""
    with store.transaction() as transaction:
        known, keys = transaction.ids(), transaction.shim_keys()
    disk.set_aside(known)
    unneeded = [*disk.abandoned(), *shims.abandoned(), *shims.unused(keys)]
    for path in unneeded:
        try:
            remove_tree(path) if path.is_dir() else path.unlink()
        except OSError as error:  # it is in nobody's way
            event(_log, logging.WARNING, "leftover not removed", path=str(path), detail=str(error))
    if unneeded:
        event(_log, logging.INFO, "swept what a dead process left", paths=len(unneeded))
