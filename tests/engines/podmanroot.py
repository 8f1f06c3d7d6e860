"""Root file systems with podman of three Debian generations, built once under ``.cache/engines``.

Podman brings a whole Debian along: its own C library, newuidmap that is set-uid, conmon, crun and fuse-overlayfs. So it
cannot run on the host's libraries as other engines here do, and gets a root of its own. mmdebstrap only extracts the
packages; what their maintainer scripts would have done and podman needs, `_finish` does.

``python -m tests.engines.podmanroot`` builds all of them now.
"""

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.engines import debs

SUITES: Final[Mapping[str, str]] = {"4.3": "bookworm", "5.4": "trixie", "5.8": "forky"}
CACHE: Final = debs.CACHE / "engines"
FORMAT: Final = 2
"""Part of every root's name: a change in `_finish` builds new ones."""
USER: Final = "someone"
UID: Final = 1000
HOME: Final = f"/home/{USER}"

_PACKAGES: Final = (
    "podman", "crun", "conmon", "uidmap", "fuse-overlayfs", "skopeo", "buildah", "containers-storage",
    "base-files", "bash", "coreutils", "dash", "findutils", "grep", "gzip", "login", "mount", "passwd", "sed", "tar",
    "usr-is-merged", "util-linux",
)  # fmt: skip
_MERGED_USR: Final = 'for name in bin sbin lib lib64; do mkdir -p "$1/usr/$name"; ln -s "usr/$name" "$1/$name"; done'
_FILES: Final[Mapping[str, str]] = {
    "etc/passwd": f"root:x:0:0:root:/root:/bin/bash\n{USER}:x:{UID}:{UID}::{HOME}:/bin/bash\n"
    "nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n",
    "etc/group": f"root:x:0:\n{USER}:x:{UID}:\nnogroup:x:65534:\n",
    "etc/subuid": f"{USER}:100000:65536\n",
    "etc/subgid": f"{USER}:100000:65536\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/resolv.conf": "",
}
_NETAVARK: Final = """#!/bin/sh
echo '{"error": "no networks can be made from here: use --network host or none"}'
exit 1
"""


def root(version: str) -> Path:
    """The root with podman ``version``, a key of `SUITES`; built if it is missing, by one process at a time.

    It is shared by all who use it and is never written to: mount something above it.
    """
    suite = SUITES[version]
    finished = CACHE / f"podman-{version}-{_recipe(suite)}"
    if not finished.is_dir():
        with locked(CACHE / f"podman-{version}.lock"):
            if not finished.is_dir():
                _build(suite, finished)
    return finished


def _recipe(suite: str) -> str:
    text = "\n".join([str(FORMAT), suite, *sorted(_PACKAGES), _MERGED_USR, repr(sorted(_FILES.items()))])
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _build(suite: str, finished: Path) -> None:
    if os.geteuid() != 0:
        raise debs.DebsError(f"root {finished.name!r}: building needs root, for owners and set-uid; run as root")
    for left in CACHE.glob(f"{finished.name}.part-*"):
        shutil.rmtree(left)
    stage = Path(tempfile.mkdtemp(prefix=f"{finished.name}.part-", dir=CACHE))
    try:
        _extract(suite, stage)
        _finish(stage / "root")
        (stage / "root").rename(finished)
    finally:
        shutil.rmtree(stage)


def _extract(suite: str, stage: Path) -> None:
    """forky's index may be older than it promises to get, and apt's own user need not reach a private checkout."""
    debs.BOOTSTRAP.tool("mmdebstrap", TMPDIR=str(stage)).run(
        "-q", "--mode=root", "--variant=extract", f"--setup-hook={_MERGED_USR}", f"--include={','.join(_PACKAGES)}",
        '--aptopt=APT::Sandbox::User "root"', '--aptopt=Acquire::Check-Valid-Until "false"',
        suite, stage / "root", f"deb {debs.mirror()} {suite} main",
    )  # fmt: skip


def _finish(root: Path) -> None:
    """The network is the host's, so what could add a bridge to it, or change its sysctls, is taken away."""
    root.chmod(0o755)
    shutil.rmtree(root / "usr/lib/cni", ignore_errors=True)
    if (netavark := root / "usr/lib/podman/netavark").exists():
        netavark.write_text(_NETAVARK)
    for name, text in _FILES.items():
        (root / name).write_text(text)
    home = root / HOME.lstrip("/")
    home.mkdir(parents=True, exist_ok=True)
    os.chown(home, UID, UID)
    (root / "tmp").chmod(0o1777)
    (root / "var/tmp").chmod(0o1777)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def prefetch() -> None:
    """Build all of them, and say how long each took."""
    for version, suite in SUITES.items():
        began = time.monotonic()
        path = root(version)
        print(f"podman {version} {suite:9} {time.monotonic() - began:6.1f} s  {path}")


if __name__ == "__main__":
    try:
        prefetch()
    except debs.DebsError as error:
        sys.exit(f"error: {error}")
