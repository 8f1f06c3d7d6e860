"""`tools/build-image` run here: a Debian of packages, by buildah and mmdebstrap that are unpacked and not installed."""

import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.engines import debs
from tests.images.ocilayout import Image, read_image
from tests.standins import PROJECT

TOOL = PROJECT / "tools" / "build-image"
REF = "latest"
_NAME = "localhost/cvmfs-snapshotter:test"
_WRAPPER = """#!/bin/sh
verb=$1
shift
case $verb in from | commit | push) set -- --signature-policy "{policy}" "$@" ;; esac
exec "{buildah}" "$verb" "$@"
"""


@dataclass(frozen=True)
class Built:
    """The image in an OCI layout, and what the tool said on standard output."""

    image: Image
    said: str


def build(directory: Path) -> Built:
    """All of buildah's own is below `directory`."""
    environment = _environment(directory)
    command: Sequence[str | Path] = [TOOL, "--rootfs", _rootfs(environment), "--python", sys.executable, _NAME]
    said = _run(command, environment)
    layout = directory / "layout"
    _run(["buildah", "push", "-q", _NAME, f"oci:{layout}:{REF}"], environment)
    return Built(read_image(layout, REF), said)


def _rootfs(environment: Mapping[str, str]) -> Path:
    """Made once by the tool's own bootstrap, and kept while the tool is the same."""
    known = hashlib.sha256(TOOL.read_bytes()).hexdigest()[:10]
    found = debs.CACHE / "images" / f"rootfs-{known}.tar"
    found.parent.mkdir(parents=True, exist_ok=True)
    with (found.parent / "rootfs.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.exists():
            for old in found.parent.glob("rootfs-*.tar"):
                old.unlink()
            part = found.with_name("rootfs.part.tar")
            _run([TOOL, "--save-rootfs", part], environment)
            part.rename(found)
    return found


def _environment(directory: Path) -> dict[str, str]:
    storage = f'graphroot = "{directory}/storage"\nrunroot = "{directory}/run"\n'
    files = {
        "policy.json": '{"default":[{"type":"insecureAcceptAnything"}]}',
        "registries.conf": "",
        "containers.conf": "",
        "storage.conf": f'[storage]\ndriver = "overlay"\n{storage}',
    }
    for name, text in files.items():
        (directory / name).write_text(text)
    buildah, bootstrap = debs.BUILDAH.tool("buildah"), debs.environment(debs.BOOTSTRAP.root())
    wrapper = directory / "bin" / "buildah"
    wrapper.parent.mkdir()
    wrapper.write_text(_WRAPPER.format(policy=directory / "policy.json", buildah=buildah.path))
    wrapper.chmod(0o755)
    joined = {
        name: os.pathsep.join(filter(None, (buildah.environment[name], bootstrap[name])))
        for name in ("PATH", "LD_LIBRARY_PATH", "PERL5LIB")
    }
    return {
        **buildah.environment,
        **joined,
        "PATH": f"{wrapper.parent}{os.pathsep}{joined['PATH']}",
        "CONTAINERS_CONF": str(directory / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(directory / "storage.conf"),
        "CONTAINERS_REGISTRIES_CONF": str(directory / "registries.conf"),
        "DEBIAN_MIRROR": debs.mirror(),
        "TMPDIR": str(directory),
    }


def _run(command: Sequence[str | Path], environment: Mapping[str, str]) -> str:
    """In a mount namespace of its own: whatever happens, no mount stays."""
    done = subprocess.run(["unshare", "--mount", *command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.stderr + done.stdout)[-3000:]
    return done.stdout
