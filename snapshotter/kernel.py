"""What the running kernel and our user namespace want of an overlay mount. Nothing is mounted to find out."""

from pathlib import Path

from snapshotter.mounts import MountOptions

_WHOLE_RANGE = ["0", "0", "4294967295"]


def mount_options(extra: tuple[str, ...] = (), system: Path = Path("/")) -> MountOptions:
    """`index=off` where overlayfs knows the parameter (an index would forbid a lower to be used twice at once);
    `userxattr` inside a user namespace, where `trusted.*` attributes are out of reach. `system` is where /sys and
    /proc are found."""
    fixed = []
    if (system / "sys/module/overlay/parameters/index").exists():
        fixed.append("index=off")
    if in_user_namespace(system):
        fixed.append("userxattr")
    return MountOptions((*fixed, *extra))


def in_user_namespace(system: Path = Path("/")) -> bool:
    """Whether user ids are mapped other than one to one over the whole range."""
    try:
        lines = (system / "proc/self/uid_map").read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) != 1 or lines[0].split() != _WHOLE_RANGE
