"""The shipped manifests: what Kubernetes takes, and that they agree with one another, the daemon and the manuals."""

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from cvmfsrepo.web import parse_address
from snapshotter.admin.address import admin_address
from snapshotter.config import Config, parse
from snapshotter.nodelabels.cluster import ACCOUNT
from snapshotter.server import GRACE
from tests.engines.cri import RUNTIME_HANDLER
from tests.kubernetes import shipped
from tests.kubernetes.shipped import MANIFESTS, build, container, get, host_paths, pod
from tests.standins import PROJECT

VERSIONS = ("1.30", "1.32", "1.34", "1.37")
ALL = build(MANIFESTS)
BASE = build(MANIFESTS / "base")


def name_of(resource: dict[str, Any]) -> str:
    return f"{resource['kind']}-{resource['metadata']['name']}"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("resource", ALL, ids=name_of)
def test_kubernetes_takes_every_resource(resource: dict[str, Any], version: str) -> None:
    """By the schema of that version's API, which knows every field: an unknown one is refused."""
    assert kubernetes_validate.validate(resource, version, strict=True) == version


@pytest.mark.parametrize("version", ["1.26", "1.28"])
@pytest.mark.parametrize("resource", BASE, ids=name_of)
def test_older_clusters_take_the_base(resource: dict[str, Any], version: str) -> None:
    """The policy is what they lack."""
    assert kubernetes_validate.validate(resource, version, strict=True) == version


def test_the_validator_sees_a_wrong_field() -> None:
    """A misspelt field, a wrong type and a wrong word are each refused."""
    for change in ({"hostNetwrok": True}, {"hostNetwork": "yes"}, {"containers": None}):
        wrong = get("DaemonSet", resources=build(MANIFESTS))
        wrong["spec"]["template"]["spec"] |= change
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


def test_every_file_is_used() -> None:
    """Each manifest is listed by a kustomization, and each resource is there once."""
    listed = {"kustomization.yaml"}
    for path in MANIFESTS.rglob("kustomization.yaml"):
        listed |= {Path(each).name for each in shipped.walk(yaml.safe_load(path.read_text())) if isinstance(each, str)}
    assert {path.name for path in MANIFESTS.rglob("*") if path.is_file()} - listed == set()
    names = [name_of(each) for each in ALL]
    assert sorted(names) == sorted(set(names))


def test_the_settings_are_the_daemon_s() -> None:
    """The ConfigMap's file is where the daemon looks, is taken, and every path in it is one that the pod has."""
    config = settings()
    places = mounts("snapshotter")
    assert places["config"] == "/etc/containerd-cvmfs-grpc"
    assert {config.root, str(Path(config.address).parent)} == {places["state"], places["run"]}
    assert str(admin_address(config).parent) == places["run"]
    assert all(str(each.root).startswith(f"{places['cvmfs']}/") for each in config.served)
    assert (config.root, config.address) == (Config().root, Config().address)


def test_paths_are_the_same_inside_and_outside() -> None:
    """containerd mounts what the daemon names; and every volume that is mounted is one of the pod's."""
    found = host_paths()
    assert {name: path for name, path in mounts("snapshotter").items() if name in found} == found
    volumes = {each["name"] for each in pod()["spec"]["volumes"]}
    used = {each for it in pod()["spec"]["containers"] for each in mounts(it["name"])}
    assert used == volumes


def test_probes_ask_the_daemon_s_port() -> None:
    """Alive by /healthz, ready by /readyz, over loopback; the port is that of metrics-address, wherever it is named."""
    _, port = parse_address(settings().metrics_address)
    daemon = container("snapshotter")
    (declared,) = daemon["ports"]
    assert (declared["containerPort"], declared["hostPort"]) == (port, port)
    for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert daemon[probe]["httpGet"] == {"host": "127.0.0.1", "port": declared["name"], "path": path}
    assert pod()["metadata"]["annotations"]["prometheus.io/port"] == str(port)
    (service,) = get("Service")["spec"]["ports"]
    assert (service["port"], service["targetPort"]) == (port, declared["name"])


def test_names_agree() -> None:
    """Selectors, service account, runtime class and policy mean what is there."""
    labels = pod()["metadata"]["labels"]
    assert get("DaemonSet")["spec"]["selector"]["matchLabels"] == labels == get("Service")["spec"]["selector"]
    account = get("ServiceAccount")
    assert pod()["spec"]["serviceAccountName"] == account["metadata"]["name"]
    assert {each["metadata"]["namespace"] for each in ALL if "namespace" in each["metadata"]} == {
        get("Namespace")["metadata"]["name"]
    }
    runtime = get("RuntimeClass", "ordinary")
    assert pod()["spec"]["runtimeClassName"] == runtime["metadata"]["name"]
    assert pod()["metadata"]["annotations"][RUNTIME_HANDLER] == runtime["handler"]
    binding = get("ClusterRoleBinding", "cvmfs-snapshotter-node-labels")
    get("ClusterRole", binding["roleRef"]["name"])
    (subject,) = binding["subjects"]
    assert (subject["name"], subject["namespace"]) == (account["metadata"]["name"], account["metadata"]["namespace"])
    policy = get("ValidatingAdmissionPolicyBinding", binding["metadata"]["name"])
    get("ValidatingAdmissionPolicy", policy["spec"]["policyName"])


def test_one_pod_after_another() -> None:
    """Two daemons cannot share a node's state; a call that runs gets its time."""
    rolling = get("DaemonSet")["spec"]["updateStrategy"]
    assert rolling == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}
    assert pod()["spec"]["terminationGracePeriodSeconds"] > GRACE


def test_the_token_is_the_label_container_s_alone() -> None:
    """The daemon has none; the other one is not root, and has neither a capability nor a directory of the node."""
    assert pod()["spec"]["automountServiceAccountToken"] is False
    assert get("ServiceAccount")["automountServiceAccountToken"] is False
    assert [it["name"] for it in pod()["spec"]["containers"] if "account" in mounts(it["name"])] == ["node-labels"]
    assert mounts("node-labels")["account"] == str(ACCOUNT)
    assert set(mounts("node-labels")) == {"account", "config"}
    found = shipped.security_context("node-labels")
    assert (found.add, found.drop, found.run_as_user) == ((), ("ALL",), 65534)
    assert (found.allow_privilege_escalation, found.read_only_root_filesystem) == (False, True)
    (rule,) = get("ClusterRole", "cvmfs-snapshotter-node-labels")["rules"]
    assert rule == {"apiGroups": [""], "resources": ["nodes"], "verbs": ["patch"]}


def test_nothing_is_privileged() -> None:
    """Nowhere in the pod; and only the daemon is root."""
    keys = {key for each in shipped.walk(pod()) if isinstance(each, dict) for key in each}
    assert keys.isdisjoint({"privileged", "hostPID", "hostIPC", "procMount"})


def test_the_manual_s_pod_is_the_shipped_one() -> None:
    """What docs/security.md shows is part of the manifest, value by value."""
    text = (PROJECT / "docs" / "security.md").read_text()
    (block,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    shown = yaml.safe_load(block)
    (inner,) = shown["spec"].pop("containers")
    daemon = container("snapshotter")
    assert inner["securityContext"] == daemon["securityContext"]
    assert [each for each in daemon["volumeMounts"] if each["name"] != "config"] == inner["volumeMounts"]
    assert [each for each in pod()["spec"]["volumes"] if "hostPath" in each] == shown["spec"].pop("volumes")
    assert shown["spec"].items() <= pod()["spec"].items()
    assert shown["metadata"]["annotations"].items() <= pod()["metadata"]["annotations"].items()


def settings() -> Config:
    data = get("ConfigMap")["data"]
    return parse(data["config.toml"].encode(), Path("config.toml"))


def mounts(name: str) -> dict[str, str]:
    """Volume -> place in that container."""
    return {each["name"]: each["mountPath"] for each in container(name)["volumeMounts"]}
