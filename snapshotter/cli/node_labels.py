"""`node-labels`: the process beside the daemon that tells Kubernetes how the repositories are."""

import logging
import os
import signal
from pathlib import Path

import click

from cvmfsrepo.errors import FailedPrecondition
from snapshotter import config as configuration
from snapshotter.cli.options import configured
from snapshotter.log import configure, event
from snapshotter.nodelabels.cluster import ACCOUNT, Cluster
from snapshotter.nodelabels.keeping import BEAT, Keeper
from snapshotter.nodelabels.watched import Daemon

_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})


@click.command("node-labels")
@click.option("--config", "config_path", type=click.Path(path_type=Path), default=configuration.DEFAULT_PATH,
              show_default=True, help="TOML file of the daemon, for its metrics-address.")  # fmt: skip
@click.option("--node", envvar="NODE_NAME", required=True, help="Name of the Node.  [env: NODE_NAME]")
@click.option("--account", type=click.Path(path_type=Path), default=ACCOUNT, show_default=True,
              help="Directory with the pod's token and ca.crt.")  # fmt: skip
@click.option("--beat", type=click.FloatRange(0.05, 3600), default=BEAT, show_default=True,
              help="Seconds between two looks at the daemon.")  # fmt: skip
def node_labels(config_path: Path, node: str, account: Path, beat: float) -> None:
    """Labels this node in Kubernetes with the health of its repositories.

    Runs in a pod until SIGTERM, beside a daemon whose metrics-address is set, and takes the labels away when it ends:
    repository.cvmfs.cern.ch/NAME = healthy, degraded, open or unknown.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    config = configured(config_path)
    configure(config.log_level)
    if not config.metrics_address:
        remedy = 'set it, such as to "127.0.0.1:9400": the states are read there'
        raise FailedPrecondition("metrics-address", "", "is not set", remedy)
    keeper = Keeper(Daemon(config.metrics_address), Cluster.of_environment(os.environ, node, account))
    event(logging.getLogger(__name__), logging.INFO, "labelling", node=node, daemon=config.metrics_address)
    keeper.beat()
    while signal.sigtimedwait(_SIGNALS, beat) is None:
        keeper.beat()
    keeper.end()
