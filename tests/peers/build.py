"""Builds the Go programs of this directory, once for each state of their sources, against Debian's containerd 1.6.

`python -m tests.peers.build` builds them now and says where they are.
"""

import fcntl
import hashlib
import shutil
import tempfile
from pathlib import Path

from tests.engines import debs

SOURCES = Path(__file__).parent
CACHE = debs.CACHE / "peers"

SUITE = "snaptest"
OVERLAY = "overlay-grpc"
LOAD = "snapbench"


def program(name: str) -> Path:
    """The built program of that name: SUITE, OVERLAY or LOAD."""
    return programs() / name


def programs() -> Path:
    """The directory with all of them; built if it is missing, whole or not at all, by one process at a time."""
    finished = CACHE / _fingerprint()
    if finished.exists():
        return finished
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.exists():
            for left in CACHE.glob("part-*"):
                shutil.rmtree(left)
            _build(Path(tempfile.mkdtemp(prefix="part-", dir=CACHE)), finished)
    return finished


def _build(stage: Path, finished: Path) -> None:
    package = stage / "path" / "src" / "peers"
    shutil.copytree(SOURCES, package, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    go = debs.go_tool(stage / "path")
    built = stage / "built"
    built.mkdir()
    for name in (OVERLAY, LOAD):
        go.run("build", "-o", built / name, f"./{name}", cwd=package)
    go.run("test", "-c", "-o", built / SUITE, f"./{SUITE}", cwd=package)
    built.rename(finished)
    shutil.rmtree(stage)


def _fingerprint() -> str:
    """Of the sources and of the compiler's packages."""
    digest = hashlib.sha256(str(debs.GO).encode())
    for source in sorted(SOURCES.rglob("*.go")):
        digest.update(f"{source.relative_to(SOURCES)}\0".encode() + source.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    print(programs())
