"""What the daemon says of its repositories, over its monitoring port: the same pages that probes and Prometheus read.

So this process needs no socket, no directory of the node, and not to be root.
"""

import http.client
import re
from dataclasses import dataclass
from http import HTTPStatus

from cvmfsrepo.breaker import State
from cvmfsrepo.errors import DataLoss, Unavailable
from cvmfsrepo.web import parse_address

SECONDS = 5.0
"""For each page: the daemon waits for no repository when it answers one."""

_MOST_BYTES = 16 << 20
_ESCAPES = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}
_STATE = re.compile(
    r'^cvmfs_snapshotter_repository_state\{repository="((?:[^"\\]|\\.)*)",state="([a-z]+)"\} 1(?:\.0)?$', re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Daemon:
    """`address` is the daemon's `metrics-address`; one that means every address of the machine is asked on loopback."""

    address: str

    def states(self) -> dict[str, str]:
        """The state of each repository. Unavailable where the daemon does not serve, or has not looked at a repository
        yet: it counts as healthy until then."""
        problem = "says that its snapshots service does not answer"
        if self._page("/healthz")[0] != HTTPStatus.OK:
            raise Unavailable("daemon at", self.address, problem, "look at its log")
        found = parse_states(self._page("/metrics")[1])
        status, why = self._page("/readyz")
        if status != HTTPStatus.OK and set(found.values()) == {State.HEALTHY}:
            raise Unavailable("daemon at", self.address, f"is not ready: {' '.join(why.split())}")
        return found

    def _page(self, path: str) -> tuple[int, str]:
        host, port = parse_address(self.address)
        connection = http.client.HTTPConnection(_reachable(host), port, timeout=SECONDS)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read(_MOST_BYTES).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            remedy = "look whether it runs, and at its metrics-address"
            raise Unavailable("daemon at", self.address, f"does not answer ({error!r})", remedy) from None
        finally:
            connection.close()


def parse_states(text: str) -> dict[str, str]:
    """The repositories' states in a page of metrics (docs/metrics.md). DataLoss for a page without any, which is not
    our daemon's."""
    found = {_unescaped(name): state for name, state in _STATE.findall(text)}
    if not found:
        raise DataLoss("page", "/metrics", "tells no repository's state", "let metrics-address be the daemon's")
    return found


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _unescaped(text: str) -> str:
    return re.sub(r"\\.", lambda match: _ESCAPES.get(match[0], match[0]), text)
