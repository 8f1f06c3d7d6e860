"""What is mounted below a directory of ours, and taking it away again."""

import re
import subprocess
from pathlib import Path

_ESCAPE = re.compile(r"\\([0-7]{3})")


def mounts_below(directory: Path) -> list[Path]:
    """Mount points at and below it, the last mounted first."""
    prefix = f"{directory}/"
    points = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        point = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), line.split(" ")[4])
        if f"{point}/".startswith(prefix):
            points.append(Path(point))
    return points[::-1]


def unmount_below(directory: Path) -> None:
    """Lazily, so that a process that still looks into one does not keep the rest mounted."""
    for point in mounts_below(directory):
        subprocess.run(["umount", "--lazy", "--no-canonicalize", str(point)], check=True, capture_output=True)
