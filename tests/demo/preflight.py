"""What the demo needs of the machine: each lack is said at once, with what to do."""

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

OLDEST_KERNEL = (5, 11)
"""Overlayfs has all that is used, and devices 0:0 need no privilege."""
SPACE = 6 << 30
"""Bytes: packages, images and two copies of the image's layers."""


def problems(checkout: Path, system: Path = Path("/")) -> Iterator[str]:
    """Why the demo cannot run here, each with its remedy. `system` is where /proc, /sys and /usr are looked for."""
    if sys.platform != "linux":
        yield f"this is {sys.platform}: run it on Linux, for overlayfs and containerd need it"
        return
    if platform.machine() not in ("x86_64", "aarch64"):
        yield f"this is {platform.machine()}: run it on x86_64 or aarch64"
    if os.geteuid() != 0:
        yield "not root: it mounts file systems and starts containers: sudo make demo"
    yield from _kernel_problems(platform.release(), system)
    if not shutil.which("apt-get") or not (system / "usr/share/keyrings/debian-archive-keyring.gpg").exists():
        yield "not Debian: it takes containerd from Debian's packages: run it on Debian 12 or 13, or in a Debian VM"
    free = shutil.disk_usage(checkout).free
    if free < SPACE:
        yield f"only {free >> 20} MiB are free at {checkout}: it needs {SPACE >> 30} GiB"


def _kernel_problems(release: str, system: Path) -> Iterator[str]:
    match = re.match(r"(\d+)\.(\d+)", release)
    if match and (int(match[1]), int(match[2])) < OLDEST_KERNEL:
        yield f"kernel {release} is old: run it on {'.'.join(map(str, OLDEST_KERNEL))} or newer"
    if "overlay" not in (system / "proc/filesystems").read_text() and not (system / "sys/module/overlay").exists():
        yield "no overlayfs in the kernel: modprobe overlay"
