"""The manifests as they are shipped: what kustomize makes of them, as far as ours use it, and one container's part.

A test compares with the real kustomize what is built here; so the other tests need no program.
"""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.engines.cri import SecurityContext
from tests.standins import PROJECT

MANIFESTS = PROJECT / "config" / "kubernetes"
NAME = "cvmfs-snapshotter"

Resource = dict[str, Any]


def build(directory: Path, below: Sequence[Resource] = ()) -> list[Resource]:
    """The resources of a kustomization; a component's stand on those `below`. Generated ConfigMaps are without the hash
    in their names."""
    (wanted,) = _documents(directory / "kustomization.yaml")
    unknown = wanted.keys() - {"apiVersion", "kind", "resources", "components", "patches", "configMapGenerator"}
    assert not unknown, f"{directory}: {unknown} is not built here"
    found = [*copy.deepcopy(below)]
    for name in wanted.get("resources", ()):
        found += build(directory / name) if (directory / name).is_dir() else _documents(directory / name)
    found += [_config_map(directory, each) for each in wanted.get("configMapGenerator", ())]
    for name in wanted.get("components", ()):
        found = build(directory / name, found)
    for patch in wanted.get("patches", ()):
        target = patch["target"]
        (only,) = [it for it in found if (it["kind"], it["metadata"]["name"]) == (target["kind"], target["name"])]
        (operations,) = _documents(directory / patch["path"])
        for operation in operations:
            _append(only, operation)
    return found


def get(kind: str, name: str = NAME, resources: Sequence[Resource] | None = None) -> Resource:
    """One of the shipped resources."""
    resources = build(MANIFESTS) if resources is None else resources
    (found,) = [each for each in resources if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def pod() -> Resource:
    """The DaemonSet's template, with its metadata."""
    template: Resource = get("DaemonSet")["spec"]["template"]
    return template


def container(name: str) -> Resource:
    (found,) = [each for each in pod()["spec"]["containers"] if each["name"] == name]
    assert isinstance(found, dict)
    return found


def host_paths() -> dict[str, str]:
    """The pod's volumes that are directories of the node: name -> path."""
    return {it["name"]: it["hostPath"]["path"] for it in pod()["spec"]["volumes"] if "hostPath" in it}


def security_context(name: str) -> SecurityContext:
    """As the kubelet hands a container's to the engine. What this does not know fails, rather than being left out."""
    given = dict(container(name)["securityContext"])
    capabilities = given.pop("capabilities")
    given.pop("runAsNonRoot", None)
    given.pop("runAsGroup", None)
    assert given.pop("seccompProfile") == {"type": "RuntimeDefault"}
    found = SecurityContext(
        add=tuple(capabilities.get("add", ())),
        drop=tuple(capabilities["drop"]),
        allow_privilege_escalation=given.pop("allowPrivilegeEscalation"),
        read_only_root_filesystem=given.pop("readOnlyRootFilesystem"),
        seccomp_runtime_default=True,
        run_as_user=given.pop("runAsUser"),
    )
    assert not given, f"container {name}: {given} is not handed on here"
    return found


def walk(value: object) -> Iterator[object]:
    """Everything that is in a resource."""
    yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(each)


def _documents(path: Path) -> list[Any]:
    return [*yaml.safe_load_all(path.read_text())]


def _config_map(directory: Path, wanted: Resource) -> Resource:
    metadata = {"name": wanted["name"], "namespace": wanted["namespace"]}
    data = {name: (directory / name).read_text() for name in wanted["files"]}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _append(resource: Resource, operation: Resource) -> None:
    """One operation of RFC 6902: to add at the end of a list."""
    assert operation["op"] == "add", operation
    *path, last = operation["path"].removeprefix("/").split("/")
    assert last == "-", operation
    place: Any = resource
    for step in path:
        place = place[step]
    place.append(copy.deepcopy(operation["value"]))
