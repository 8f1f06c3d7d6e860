"""The API of the cluster that this process runs in: one request, which changes labels of one node.

It is made with the pod's own token, which is read anew each time, for the kubelet renews it. The answer holds the whole
node, so its labels need not be asked for: the service account may do nothing but this.
"""

import http.client
import json
import ssl
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cvmfsrepo.errors import DataLoss, FailedPrecondition, PermissionDenied, Unavailable
from snapshotter.nodelabels.labels import Change

SECONDS = 10.0
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds `token` and `ca.crt`."""

_MOST_BYTES = 16 << 20
_REFUSED = (http.client.UNAUTHORIZED, http.client.FORBIDDEN)
_GRANTS = "apply config/kubernetes once more: RBAC and the admission policy are part of it"


class _Metadata(msgspec.Struct, frozen=True):
    labels: dict[str, str] = {}


class _Node(msgspec.Struct, frozen=True):
    metadata: _Metadata


class _Refusal(msgspec.Struct, frozen=True):
    message: str = ""


_NODE, _REFUSAL = msgspec.json.Decoder(_Node), msgspec.json.Decoder(_Refusal)


@dataclass(frozen=True, slots=True)
class Cluster:
    """`host` and `port` of the API, `account` the directory with the token and the authority that signed the API's
    certificate; `node` is the Node's name."""

    host: str
    port: int
    node: str
    account: Path = ACCOUNT

    @classmethod
    def of_environment(cls, environment: Mapping[str, str], node: str, account: Path = ACCOUNT) -> "Cluster":
        """As the kubelet tells every pod. FailedPrecondition outside of one."""
        host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "")
        if not host or not port.isdecimal():
            remedy = "run this in a pod: config/kubernetes does"
            raise FailedPrecondition("environment variable", "KUBERNETES_SERVICE_HOST", "names no API", remedy)
        return cls(host, int(port), node, account)

    def change_labels(self, change: Change) -> dict[str, str]:
        """All labels that the node has afterwards. Unavailable while the API does not answer, or has no time;
        PermissionDenied where it refuses."""
        body = json.dumps({"metadata": {"labels": dict(change)}}).encode()
        headers = {"Authorization": f"Bearer {self._token()}", "Content-Type": "application/merge-patch+json"}
        path = f"/api/v1/nodes/{urllib.parse.quote(self.node, safe='')}?fieldManager=cvmfs-snapshotter"
        status, content = self._answer(path, body, {**headers, "Accept": "application/json"})
        if status in _REFUSED:
            raise PermissionDenied("node", self.node, f"may not be labelled: {_message(content)}", _GRANTS)
        if status != http.client.OK:
            raise Unavailable("node", self.node, f"was not labelled: the API answered {status}, {_message(content)}")
        try:
            return _NODE.decode(content).metadata.labels
        except msgspec.MsgspecError as error:
            raise DataLoss("answer about node", self.node, f"is no node ({error})") from None

    def _answer(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection(self.host, self.port, timeout=SECONDS, context=self._trust())
        try:
            connection.request("PATCH", path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read(_MOST_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable("API at", f"{self.host}:{self.port}", f"does not answer ({error!r})") from None
        finally:
            connection.close()

    def _token(self) -> str:
        try:
            return (self.account / "token").read_text().strip()
        except (OSError, ValueError) as error:
            raise self._no_account("token", error) from None

    def _trust(self) -> ssl.SSLContext:
        """The cluster's own authority and no other."""
        try:
            return ssl.create_default_context(cafile=str(self.account / "ca.crt"))
        except OSError as error:  # ssl.SSLError is one
            raise self._no_account("ca.crt", error) from None

    def _no_account(self, name: str, error: Exception) -> FailedPrecondition:
        remedy = "let the pod have its service account's token"
        return FailedPrecondition("file", str(self.account / name), f"cannot be read ({error})", remedy)


def _message(content: bytes) -> str:
    """Of a Status, which is how the API says no."""
    try:
        return _REFUSAL.decode(content).message
    except msgspec.MsgspecError:
        return repr(content[:200])
