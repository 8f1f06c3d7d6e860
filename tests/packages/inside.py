"""Programs in a Debian without a systemd of its own: its files and its Python, this machine's /tmp, and no network."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from tests.packages.trees import Tree

_SCRIPT = """
set -e
mount -t overlay -o lowerdir={tree},upperdir={own}/upper,workdir={own}/work inside {own}/root
cd {own}/root
mount -t proc proc proc
mount --rbind /tmp tmp
for place in {places}; do case $place in /tmp/*) ;; *) mkdir -p ".$place"; mount --bind "$place" ".$place" ;; esac; done
exec chroot . env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root "$@"
"""


def inside(tree: Tree, own: Path, places: Sequence[Path] = ()) -> tuple[str, ...]:
    """The words before a program and its arguments; the process that is started becomes the program. What it writes
    elsewhere than in /tmp stays below `own`; `places` are directories of this machine, where they are here."""
    for name in ("upper", "work", "root"):
        (own / name).mkdir(parents=True, exist_ok=True)
    words = " ".join(shlex.quote(str(place)) for place in places)
    script = _SCRIPT.format(tree=tree.root(), own=shlex.quote(str(own)), places=words)
    return ("unshare", "--mount", "--net", "sh", "-c", script, "sh")
