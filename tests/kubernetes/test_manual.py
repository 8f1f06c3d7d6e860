"""docs/kubernetes.md says what is shipped: names, numbers, and commands that are run here or in the tests beside."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from snapshotter.nodelabels import keeping, labels
from snapshotter.server import GRACE
from tests.kubernetes import shipped
from tests.kubernetes.manual import TEXT, files, typed
from tests.standins import PROJECT


@pytest.mark.parametrize("line", typed(".venv/bin/cvmfs-snapshotter "))
def test_commands_of_a_checkout(line: str) -> None:
    """Print containerd's configuration."""
    program, *arguments = line.split()
    assert Path(program).name == "cvmfs-snapshotter"
    command = [sys.executable, "-m", "snapshotter.cli.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "cvmfs-snapshotter" in tomllib.loads(done.stdout)["proxy_plugins"]


def test_commands_that_are_run_by_other_tests() -> None:
    """Building the image, and emptying the snapshotter, in tests/kubernetes/test_image.py; the rest is kubectl's."""
    lines = typed("")
    known = (".venv/bin/cvmfs-snapshotter config containerd ", "make check", "tools/build-image ", "buildah push ")
    assert [line for line in lines if not line.startswith((*known, "ctr ", "kubectl "))] == []
    (build,) = typed("tools/build-image ")
    (push,) = typed("buildah push ")
    image = build.split()[1]
    assert push.split()[2] == image
    assert (
        f"newName: {image.rpartition(':')[0]}\n  newTag: {image.rpartition(':')[2]}\n" in files()["kustomization.yaml"]
    )


def test_names_that_kubectl_is_given() -> None:
    """Are those of the manifests: namespace, DaemonSet, container, node selector, label."""
    for line in typed("kubectl -n "):
        assert line.split()[2] == shipped.get("Namespace")["metadata"]["name"]
    name = shipped.get("DaemonSet")["metadata"]["name"]
    executed = [line for line in typed("kubectl ") if re.search(r" (exec|logs) ", line)]
    assert all(f"ds/{name} -c {shipped.container('snapshotter')['name']}" in line for line in executed)
    assert len(executed) == 2
    ((key, value),) = [(k, v) for k, v in shipped.pod()["spec"]["nodeSelector"].items() if k.startswith("cvmfs")]
    assert f"{key}={value}" in typed("kubectl label ")[0]
    assert f"kubectl label node node-1.example.org {key}-`" in TEXT
    assert f"-L {labels.PREFIX}unpacked.example.org" in typed("kubectl get nodes")[0]
    handler = shipped.get("RuntimeClass", "ordinary")["handler"]
    assert f"runtime class `{handler}`" in TEXT
    assert f"runtimes.{handler}]" in (PROJECT / "docs" / "security.md").read_text()


def test_numbers() -> None:
    """Are those of the code."""
    assert f"calls that run get {GRACE:.0f} seconds" in TEXT
    assert f"has not answered for {keeping.SILENCE:.0f} seconds" in TEXT
    assert f"within {keeping.BEAT:.0f} seconds, nothing new every five minutes" in TEXT
    assert (keeping.REFRESH, keeping.LONGEST_WAIT) == (5 * 60, 2 * 60)
    assert f"longer than {labels.LONGEST} characters" in TEXT


def test_links() -> None:
    """Lead to pages and headings that are there."""
    for page, anchor in re.findall(r"\]\(([\w.]*)#?([\w-]*)\)", TEXT):
        text = (PROJECT / "docs" / page).read_text() if page else TEXT
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        slugs = {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
        assert not anchor or anchor in slugs, (page, anchor)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "no name for the image"), (["--nonsense"], "option '--nonsense': unknown"), (["--base"], "wants a value")],
)
def test_what_build_image_does_not_understand(arguments: list[str], said: str) -> None:
    """Is told in one line, and nothing is built."""
    done = subprocess.run([PROJECT / "tools" / "build-image", *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("build-image: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
