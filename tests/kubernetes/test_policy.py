"""The admission policy, evaluated as an API server does: what the service account may change of Nodes.

CEL is Google's own (`cel-expr-python`), with the variables that Kubernetes gives a policy. The API server itself is not
here: that it asks the policy for each change of a Node is its promise, and that the token names the node.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from cel_expr_python import cel

from tests.kubernetes import shipped

POLICY = shipped.get("ValidatingAdmissionPolicy", "cvmfs-snapshotter-node-labels")["spec"]
LABEL = "repository.cvmfs.cern.ch/unpacked.cern.ch"
USER = "system:serviceaccount:cvmfs-snapshotter:cvmfs-snapshotter"
CLAIM = "authentication.kubernetes.io/node-name"

NODE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {
        "name": "node-1",
        "resourceVersion": "7",
        "labels": {"kubernetes.io/hostname": "node-1", LABEL: "open"},
        "annotations": {"volumes": "attached"},
        "managedFields": [{"manager": "kubelet"}],
    },
    "spec": {"podCIDR": "192.0.2.0/24", "podCIDRs": ["192.0.2.0/24"], "taints": [{"key": "a", "effect": "NoSchedule"}]},
    "status": {"capacity": {"cpu": "2"}},
}
REQUEST: dict[str, Any] = {
    "operation": "UPDATE",
    "name": "node-1",
    "userInfo": {"username": USER, "groups": ["system:authenticated"], "extra": {CLAIM: ["node-1"]}},
}

Change = Callable[[dict[str, Any]], object]


def refusals(before: Any, after: Any, request: dict[str, Any]) -> list[str]:
    """The messages of all validations that say no, or that cannot be evaluated."""
    given = {"object": after, "oldObject": before, "request": request}
    given["variables"] = variables(given)
    return [it["message"] for it in POLICY["validations"] if evaluated(it["expression"], given) is not True]


def variables(given: dict[str, Any]) -> dict[str, Any]:
    """The policy's own, each with those before it. Kubernetes evaluates them when they are asked for."""
    found: dict[str, Any] = {}
    for each in POLICY["variables"]:
        found[each["name"]] = evaluated(each["expression"], {**given, "variables": found})
    return found


def evaluated(expression: str, given: dict[str, Any]) -> Any:
    """Its value; an error is a value like no other, and a no: failurePolicy is Fail."""
    environment = cel.NewEnv(variables=dict.fromkeys(given, cel.Type.DYN))
    return environment.compile(expression).eval(data=given).plain_value()


def changed(change: Change) -> dict[str, Any]:
    node = copy.deepcopy(NODE)
    change(node)
    return node


def metadata(**fields: Any) -> Change:
    return lambda node: node["metadata"].update(fields)


def labelled(**labels: Any) -> Change:
    return lambda node: node["metadata"]["labels"].update(labels)


def unlabelled(name: str) -> Change:
    return lambda node: node["metadata"]["labels"].pop(name)


@pytest.mark.parametrize(
    "change",
    [
        lambda node: None,
        labelled(**{LABEL: "healthy"}),
        labelled(**{"repository.cvmfs.cern.ch/other": "unknown"}),
        unlabelled(LABEL),
        metadata(managedFields=[{"manager": "cvmfs-snapshotter"}], resourceVersion="8"),
    ],
)
def test_what_is_allowed(change: Change) -> None:
    """To set and to remove our labels, and what the API server writes by itself."""
    assert refusals(NODE, changed(change), REQUEST) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (labelled(**{LABEL: "well"}), "may be set"),
        (labelled(zone="b"), "may be set"),
        (labelled(**{"kubernetes.io/hostname": "other"}), "may be set"),
        (labelled(**{"repository.cvmfs.cern.ch.evil/x": "healthy"}), "may be set"),
        (unlabelled("kubernetes.io/hostname"), "may be removed"),
        (metadata(labels={}), "may be removed"),
        (metadata(annotations={"volumes": "other"}), "annotations"),
        (metadata(annotations={}), "annotations"),
        (metadata(finalizers=["a/b"]), "finalizers"),
        (metadata(ownerReferences=[{"name": "a"}]), "owners"),
        (lambda node: node["spec"].update(unschedulable=True), "spec"),
        (lambda node: node["spec"].pop("taints"), "spec"),
        (lambda node: node["spec"]["taints"].append({"key": "b"}), "spec"),
    ],
)
def test_what_is_refused(change: Change, said: str) -> None:
    """Each by one sentence: labels of others, annotations, taints, cordons."""
    (message,) = refusals(NODE, changed(change), REQUEST)
    assert said in message


def test_a_node_without_labels_and_annotations() -> None:
    """Gets its first."""
    bare = {**NODE, "metadata": {"name": "node-1"}}
    after = {**NODE, "metadata": {"name": "node-1", "labels": {LABEL: "healthy"}}}
    assert refusals(bare, after, REQUEST) == []
    assert refusals(after, bare, REQUEST) == []


@pytest.mark.parametrize("extra", [{}, {CLAIM: []}, {CLAIM: ["node-2"]}, {"other": ["node-1"]}, None])
def test_another_node_s_token(extra: dict[str, list[str]] | None) -> None:
    """Changes nothing here, nor one that names no node."""
    user = {**REQUEST["userInfo"], "extra": extra}
    if extra is None:
        del user["extra"]
    request = {**REQUEST, "userInfo": user}
    (message,) = refusals(NODE, changed(labelled(**{LABEL: "healthy"})), request)
    assert message == "the token is not of a pod on this node"


@pytest.mark.parametrize(
    ("operation", "before", "after"), [("CREATE", None, NODE), ("DELETE", NODE, None), ("CONNECT", None, None)]
)
def test_other_verbs(operation: str, before: Any, after: Any) -> None:
    """Are refused too, should somebody give the account more rights."""
    assert "only changes of Nodes are allowed" in refusals(before, after, {**REQUEST, "operation": operation})


def test_whom_it_concerns() -> None:
    """The service account of the manifests and nobody else: a policy that meets the kubelet would stop the node."""
    (condition,) = POLICY["matchConditions"]
    account = shipped.get("ServiceAccount")["metadata"]
    for user in (f"system:serviceaccount:{account['namespace']}:{account['name']}", "system:node:node-1"):
        request = {**REQUEST, "userInfo": {"username": user}}
        assert evaluated(condition["expression"], {"request": request}) is (user == USER)


def test_which_objects_it_sees() -> None:
    """Every change of a Node and of its parts, in any version of the API; a binding makes refusals final."""
    (rule,) = POLICY["matchConstraints"]["resourceRules"]
    assert rule == {"apiGroups": [""], "apiVersions": ["*"], "operations": ["*"], "resources": ["nodes", "nodes/*"]}
    binding = shipped.get("ValidatingAdmissionPolicyBinding", "cvmfs-snapshotter-node-labels")["spec"]
    assert (binding["validationActions"], POLICY["failurePolicy"]) == (["Deny"], "Fail")
