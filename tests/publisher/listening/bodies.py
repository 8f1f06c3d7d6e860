"""Bodies as Harbor and the distribution registry send them, as small as their documentation allows, and a client that
posts them."""

import http.client
import json
from dataclasses import dataclass
from typing import Any

DIGEST = "sha256:" + "5" * 64
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def harbor(name: str, kind: str = "PUSH_ARTIFACT", at: float = 0) -> bytes:
    """Harbor's default form; `name` is HOST/PROJECT/REPOSITORY:TAG."""
    return json.dumps({"type": kind, "occur_at": at, "operator": "ci", "event_data": _data(name)}).encode()


def cloud_event(name: str, time: str = "") -> bytes:
    """The same as a CloudEvent."""
    head = {"specversion": "1.0", "id": "1", "source": "/projects/1/webhook/policies/1", "operator": "ci"}
    more = {"type": "harbor.artifact.pushed", "datacontenttype": "application/json", "time": time}
    return json.dumps({**head, **more, "data": _data(name)}).encode()


def _data(name: str) -> dict[str, Any]:
    full, _, tag = name.partition("/")[2].rpartition(":")
    repository = {"name": full.rpartition("/")[2], "namespace": full.partition("/")[0], "repo_full_name": full}
    return {"resources": [{"digest": DIGEST, "tag": tag, "resource_url": name}], "repository": repository}


def event(host: str, repository: str, tag: str = "", kind: str = MANIFEST, action: str = "push") -> dict[str, Any]:
    """One event of the distribution registry."""
    target = {"mediaType": kind, "digest": DIGEST, "size": 1, "repository": repository, **({"tag": tag} if tag else {})}
    return {"id": "1", "action": action, "target": target, "request": {"host": host, "method": "PUT"}}


def envelope(*events: object) -> bytes:
    return json.dumps({"events": events}).encode()


@dataclass(frozen=True, slots=True)
class Answered:
    """A status with its JSON."""

    status: int
    document: dict[str, Any]


def post(address: str, body: bytes, secret: str = "", path: str = "/webhook", **headers: str) -> Answered:
    """What a listener answers."""
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        given = {"Authorization": secret} if secret else {}
        connection.request("POST", path, body, {**given, **{k.replace("_", "-"): v for k, v in headers.items()}})
        answer = connection.getresponse()
        return Answered(answer.status, json.loads(answer.read()))
    finally:
        connection.close()
