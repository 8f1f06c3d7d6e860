"""The daemon: what starts and stops in which order. Containers do not notice either."""

import contextlib
import logging
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import grpc

from cvmfsrepo.errors import FailedPrecondition
from cvmfsrepo.web import served_pages
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
from snapshotter.health import Heart
from snapshotter.index.store import Index
from snapshotter.inspect import Finding, findings
from snapshotter.kernel import mount_options
from snapshotter.log import event
from snapshotter.metastore import Metastore
from snapshotter.metrics import Metrics
from snapshotter.node import RunningNode
from snapshotter.notify import Notifier
from snapshotter.pages import monitoring_pages
from snapshotter.policy import Policies
from snapshotter.pulse import Pulse, health_service
from snapshotter.reload import Reloader
from snapshotter.remote import RemoteLayers
from snapshotter.root import DATABASE, INDEX, locked_root
from snapshotter.service import ErrorInterceptor, Observer, SnapshotsService, unobserved
from snapshotter.shimstore import ShimStore
from snapshotter.snapshotter import Snapshotter
from snapshotter.socket import bind_private, bound_socket
from snapshotter.sources import Sources
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

_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})

_OPTIONS = (
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
    ("grpc.so_reuseport", 0),
)


def serve(config: Config, read: Callable[[], Config]) -> None:
    """Serves until SIGTERM or SIGINT. Refuses to start, with what to do, rather than touch state it does not trust.
    `read` is the configuration of the moment, for SIGHUP."""
    # Blocked before any thread starts, and taken by sigwait: a handler can come between a check and a wait and be lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    _allow_descriptors()
    metrics, notifier = Metrics(), Notifier.of_environment()
    with (
        opened_with_sources(config) as (node, sources),
        bound_socket(Path(config.address), config.socket_group) as address,
        bound_socket(admin_address(config)) as admin,
    ):
        snapshots, facts = _server(FEW_WORKERS, MANY_WORKERS, metrics.called), _server(FEW_WORKERS, MOST_QUESTIONS)
        questions = AdminService(Facts(node))
        reloader = Reloader(node, sources, read, questions.use)
        add_SnapshotsServicer_to_server(SnapshotsService(node.verbs), snapshots)
        snapshots.add_generic_rpc_handlers((health_service(node.store.look),))
        add_AdminServicer_to_server(questions, facts)
        bind_private(address, lambda: _bind(snapshots, address), config.socket_group)
        bind_private(admin, lambda: _bind(facts, admin, "admin-address"))
        with _watched(reloader, metrics, notifier, Pulse(address)) as pages:
            facts.start()
            snapshots.start()
            event(
                _log, logging.INFO, "serving",
                address=str(address), admin=str(admin), root=config.root,
                repositories=[r.name for r in config.served], **({"metrics": pages} if pages else {}),
            )  # fmt: skip
            notifier.ready()
            _wait(reloader, notifier)
            event(_log, logging.INFO, "stopping", grace_seconds=GRACE)
            notifier.stopping()
        facts.stop(0)
        snapshots.stop(GRACE).wait()


def _wait(reloader: Reloader, notifier: Notifier) -> None:
    """Returns when the daemon is to stop."""
    while signal.sigwait(_SIGNALS) == signal.SIGHUP:
        notifier.reloading()
        reloader.reload()
        notifier.ready()


@contextlib.contextmanager
def _watched(reloader: Reloader, metrics: Metrics, notifier: Notifier, pulse: Pulse) -> Iterator[str]:
    """The daemon asks itself whether it serves, and tells systemd and whoever reads the pages, until the end. Yields
    where the pages are, "" where there are none."""
    config, heart = reloader.node.config, Heart(pulse.ask, lambda: reloader.node.repositories, notifier)
    metrics.watch(lambda: reloader.node, lambda: reloader.refused)
    if index := reloader.node.index:
        index.on_sight = metrics.published
    pages = monitoring_pages(metrics, heart)
    with (
        contextlib.closing(pulse),
        served_pages(config.metrics_address, pages) if config.metrics_address else contextlib.nullcontext("") as place,
    ):
        heart.start()
        try:
            yield place
        finally:
            heart.stop()


@contextlib.contextmanager
def opened(config: Config) -> Iterator[Snapshotter]:
    """The verbs of `opened_node`."""
    with opened_node(config) as node:
        yield node.verbs


@contextlib.contextmanager
def opened_node(config: Config) -> Iterator[RunningNode]:
    """A snapshotter on the configured root, swept of what a dead process left behind."""
    with opened_with_sources(config) as (node, _):
        yield node


@contextlib.contextmanager
def opened_with_sources(config: Config) -> Iterator[tuple[RunningNode, Sources]]:
    """The same, with what a reload changes."""
    with locked_root(Path(config.root)) as root:
        store = open_database(root / DATABASE)
        try:
            disk, shims = Disk(root), ShimStore(root)
            keep_newer(store, disk)
            _sweep(store, disk, shims)
            _report(findings(store.walk(parse_filters([])), disk))
            with (
                Backups(store, root / BACKUP, config.backup_interval) as backups,
                _kept_index(config, root / INDEX) as index,
                contextlib.closing(Sources(index)) as sources,
            ):
                sources.use(sources.guards(config), config)
                repositories = sources.repositories
                remote, options = RemoteLayers(repositories, shims, index), mount_options(config.mount_options)
                verbs = Snapshotter(store, disk, remote, options, Policies(config.policy))
                yield (
                    RunningNode(config, store, disk, shims, repositories, remote, options, index, verbs, backups),
                    sources,
                )
        finally:
            store.close()


def _server(few: int, many: int, observe: Observer = unobserved) -> grpc.Server:
    workers = Workers(few, many)
    return grpc.server(workers, interceptors=[ErrorInterceptor(observe)], options=_OPTIONS)  # type: ignore[arg-type]


@contextlib.contextmanager
def _kept_index(config: Config, path: Path) -> Iterator[Index | None]:
    """None where the configuration wants none."""
    if not config.index:
        yield None
        return
    with contextlib.closing(Index(path)) as index:
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
