"""SIGHUP: the configuration file is read again, and what may change while the daemon runs changes, all of it or
nothing.

Policies, repositories and their order, deadlines and the log level may. A call that runs goes on with those that it
began with. The rest is how the daemon was built: a file that changes such a key is refused as a whole, and the log
names the key.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

import msgspec

from cvmfsrepo.errors import ContractError
from snapshotter import log
from snapshotter.config import Config
from snapshotter.log import event
from snapshotter.node import RunningNode
from snapshotter.policy import Policies
from snapshotter.sources import Sources

_log = logging.getLogger(__name__)

RELOADABLE = frozenset({
    "log-level", "repository", "absolute-mountpoint", "repositories", "deadline", "probe-interval", "policy",
})  # fmt: skip
"""Keys of the configuration that SIGHUP takes."""


def changed_keys(old: Config, new: Config) -> list[str]:
    """Keys whose values differ, as the file spells them."""
    fields = msgspec.structs.fields(Config)
    return [field.encode_name for field in fields if getattr(old, field.name) != getattr(new, field.name)]


class Reloader:
    """Holds the node as it is now. `read` is the configuration as a start would have it; `tell` is called with a node
    that was changed."""

    def __init__(
        self, node: RunningNode, sources: Sources, read: Callable[[], Config], tell: Callable[[RunningNode], object]
    ) -> None:
        self.node = node
        self.refused = False
        self._sources, self._read, self._tell = sources, read, tell

    def reload(self) -> None:
        """Takes the file, or says in the log why not."""
        self.refused = True
        try:
            config = self._read()
        except ContractError as error:
            event(_log, logging.ERROR, "configuration not reloaded", detail=str(error), remedy="all stays as it was")
            return
        changed = changed_keys(self.node.config, config)
        if fixed := [key for key in changed if key not in RELOADABLE]:
            event(
                _log, logging.ERROR, "configuration not reloaded", keys=fixed,
                detail=f"{', '.join(fixed)}: changes at a restart only, and all stays as it was",
                remedy="restart the daemon, which containers do not notice, or take the change back",
            )  # fmt: skip
            return
        self.refused = False
        before = {repository.name for repository in self.node.repositories}
        self._take(config)
        after = {repository.name for repository in self.node.repositories}
        event(
            _log, logging.INFO, "configuration reloaded",
            keys=changed, added=sorted(after - before), removed=sorted(before - after),
        )  # fmt: skip

    def _take(self, config: Config) -> None:
        """One assignment for the verbs: each call sees the old or the new, and no mixture."""
        guards = self._sources.guards(config)
        remote = self.node.remote.over(tuple(guards.values()))
        self.node.verbs.serve(remote, Policies(config.policy))
        self.node = replace(self.node, config=config, repositories=tuple(guards.values()), remote=remote)
        self._tell(self.node)
        self._sources.use(guards, config)
        log.configure(config.log_level)
