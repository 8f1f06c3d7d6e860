"""Debian's kubectl, unpacked and not installed: what its kustomize makes of our manifests, and of the manual's."""

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from snapshotter.config import parse
from tests.engines import debs
from tests.kubernetes.manual import files
from tests.kubernetes.shipped import MANIFESTS, NAME, build
from tests.standins import PROJECT

pytestmark = pytest.mark.engine

_HASH = re.compile(rf"{NAME}-[a-z0-9]{{10}}")


def kustomized(directory: Path) -> list[dict[str, Any]]:
    """Resources, in the order of their names."""
    return in_order(yaml.safe_load_all(debs.KUBECTL.tool("kubectl").run("kustomize", directory)))


def in_order(resources: Any) -> list[dict[str, Any]]:
    return sorted(resources, key=lambda it: (it["kind"], it["metadata"]["name"]))


@pytest.mark.parametrize("part", [".", "base"])
def test_the_other_tests_build_the_same(part: str) -> None:
    """But for the hash in the ConfigMap's name, which the pod names as well."""
    found = debs.KUBECTL.tool("kubectl").run("kustomize", MANIFESTS / part)
    assert len(_HASH.findall(found)) == 2
    assert in_order(yaml.safe_load_all(_HASH.sub(NAME, found))) == in_order(build(MANIFESTS / part))


def test_the_manual_s_kustomization(tmp_path: Path) -> None:
    """On top of the shipped one: one image for all containers, other settings, and a name that changes with them."""
    (tmp_path / "cvmfs-snapshotter").symlink_to(PROJECT)
    directory = tmp_path / "cluster"
    directory.mkdir()
    for name, text in files().items():
        (directory / name).write_text(text)
    config = files()["config.toml"]
    found = kustomized(directory)
    (daemons,) = [each for each in found if each["kind"] == "DaemonSet"]
    images = {each["image"] for each in daemons["spec"]["template"]["spec"]["containers"]}
    assert images == {"registry.example.org/infrastructure/cvmfs-snapshotter:0.1.0-1"}
    (given,) = [each for each in found if each["kind"] == "ConfigMap"]
    assert given["data"]["config.toml"] == config
    assert parse(config.encode(), directory / "config.toml").repository == "unpacked.example.org"
    assert [each["kind"] for each in found] == [each["kind"] for each in in_order(build(MANIFESTS))]
    (shipped,) = [each for each in kustomized(MANIFESTS) if each["kind"] == "ConfigMap"]
    assert given["metadata"]["name"] != shipped["metadata"]["name"]
    for each in found:
        kubernetes_validate.validate(each, "1.32", strict=True)
