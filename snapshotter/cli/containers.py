"""Which snapshot a container of containerd runs on, for the commands that take a container's name."""

import os
from pathlib import Path

from cvmfsrepo.errors import FailedPrecondition, Internal, NotFound
from snapshotter.config import Config
from snapshotter.engineview import find_container, record_name


def engine_socket() -> Path:
    """containerd's socket, as ctr finds it, or where distributions put it."""
    from snapshotter.engine import default_socket

    given = os.environ.get("CONTAINERD_ADDRESS")
    return Path(given) if given else default_socket()


def resolve_container(config: Config, text: str, socket: Path | None = None) -> str:
    """The name of our snapshot under a container, which is named by its id, the beginning of one, or its name or its
    pod's. NotFound where there is none or this containerd does not know our daemon, InvalidArgument where there are
    several, FailedPrecondition where it runs on another snapshotter, Unavailable where containerd does not answer."""
    from snapshotter.admin.asking import asked
    from snapshotter.engine import look

    try:
        view = look(socket or engine_socket(), config.address)
    except (FailedPrecondition, Internal) as error:
        raise NotFound("container", text, f"cannot be looked for: {error}") from None
    container = find_container(view.containers, text)
    with asked(config) as node:
        return record_name(container, view.snapshotters, [record.name for record in node.walk()])
