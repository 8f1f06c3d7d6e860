"""Where the admin service is: on a socket of its own, for whoever may use the snapshots' socket need not be root."""

from pathlib import Path

from snapshotter.config import Config

SOCKET = "admin.sock"


def admin_address(config: Config) -> Path:
    """The configured socket, or one beside that of the snapshots."""
    return Path(config.admin_address) if config.admin_address else Path(config.address).with_name(SOCKET)
