"""A root file system with Apptainer, built once under ``.cache/engines`` as those of `podmanroot` are.

Only Debian's development suite has Apptainer. Its version is asserted by nobody: the tests say what they need of it.

``python -m tests.engines.apptainerroot`` builds it now.
"""

import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.engines import debs
from tests.engines.podmanroot import CACHE, HOME, UID, USER, locked

SUITE: Final = "sid"
FORMAT: Final = 1
"""Part of the root's name: a change in how it is made builds a new one."""

_PACKAGES: Final = (
    "apptainer", "uidmap", "fuse-overlayfs", "squashfuse", "squashfs-tools", "tzdata",
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
    "etc/resolv.conf": "nameserver 192.0.2.1\n",
    "etc/localtime": "",
}


def root() -> Path:
    """The root with Apptainer; built if it is missing, by one process at a time. It is shared and never written to."""
    recipe = "\n".join([str(FORMAT), SUITE, *sorted(_PACKAGES), _MERGED_USR, repr(sorted(_FILES.items()))])
    finished = CACHE / f"apptainer-{hashlib.sha256(recipe.encode()).hexdigest()[:10]}"
    if not finished.is_dir():
        with locked(CACHE / "apptainer.lock"):
            if not finished.is_dir():
                _build(finished)
    return finished


def _build(finished: Path) -> None:
    if os.geteuid() != 0:
        raise debs.DebsError(f"root {finished.name!r}: building needs root, for owners; run as root")
    stage = Path(tempfile.mkdtemp(prefix=f"{finished.name}.part-", dir=CACHE))
    try:
        debs.BOOTSTRAP.tool("mmdebstrap", TMPDIR=str(stage)).run(
            "-q", "--mode=root", "--variant=extract", f"--setup-hook={_MERGED_USR}",
            f"--include={','.join(_PACKAGES)}", '--aptopt=APT::Sandbox::User "root"',
            '--aptopt=Acquire::Check-Valid-Until "false"',
            SUITE, stage / "root", f"deb {debs.mirror()} {SUITE} main",
        )  # fmt: skip
        _finish(stage / "root")
        (stage / "root").rename(finished)
    finally:
        shutil.rmtree(stage)


def _finish(made: Path) -> None:
    """What maintainer scripts would have done and Apptainer needs."""
    made.chmod(0o755)
    for name, text in _FILES.items():
        (made / name).write_text(text)
    home = made / HOME.lstrip("/")
    home.mkdir(parents=True, exist_ok=True)
    os.chown(home, UID, UID)
    (made / "tmp").chmod(0o1777)
    (made / "var/tmp").chmod(0o1777)


if __name__ == "__main__":
    try:
        began = time.monotonic()
        print(f"apptainer {SUITE} {root()} {time.monotonic() - began:6.1f} s")
    except debs.DebsError as error:
        sys.exit(f"error: {error}")
