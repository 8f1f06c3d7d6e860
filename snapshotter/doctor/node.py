"""Checks of the node: the daemon's socket and service, the kernel, the disk of the state, SELinux."""

import re
from collections.abc import Iterator

from snapshotter.doctor.values import Facts, Finding, StateFacts, fault, fine, warning
from snapshotter.engineconfig.generator import PLUGIN

_UNFIT = frozenset({
    "overlay", "nfs", "nfs4", "cifs", "smb3", "9p", "vfat", "exfat", "afs", "ceph", "lustre", "squashfs", "erofs",
})  # fmt: skip
_GOOD = frozenset({"ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "ext3"})
_MIB, _GIB = 1 << 20, 1 << 30


def socket(facts: Facts) -> Iterator[Finding]:
    """The daemon answers where containerd looks for it, and lets nobody else in."""
    found, address, name = facts.socket, facts.config.address, "socket"
    why = "every call of containerd fails with Unavailable"
    start = f"start the daemon (systemctl start {PLUGIN}) and see its log (journalctl -u {PLUGIN})"
    if found.kind == "hidden":
        yield warning(name, f"{address} cannot be looked at", "whether a daemon answers is not known", "run as root")
    elif found.kind == "missing":
        yield fault(name, f"{address} does not exist: the daemon does not run, or serves elsewhere", why, start)
    elif found.kind == "other":
        yield fault(name, f"{address} is not a socket", "the daemon refuses to start", "move it away")
    elif found.answer:
        yield fault(name, f"nobody answers on {address}: {found.answer}", why, f"restart the daemon: {start}")
    elif found.uid != 0 and facts.is_root:
        what = f"{address} belongs to user {found.uid}"
        yield fault(name, what, "that user can make and remove every container's files", "run the daemon as root")
    elif found.mode & 0o007 or (found.mode & 0o070 and not facts.config.socket_group):
        why = "whoever may connect can do to every image and container of the node what root can"
        fix = f"chmod {'660' if facts.config.socket_group else '600'} {address}, and find out what changed it"
        yield fault(name, f"{address} has the mode {found.mode:04o}", why, fix)
    else:
        yield fine(name, f"a snapshotter answers on {address}")


def order_of_start(facts: Facts) -> Iterator[Finding]:
    """systemd starts us before containerd, which asks for every image when it starts."""
    unit, name = facts.unit, "order of start"
    if not unit.known:
        return
    why = "containerd asks for every image at its start, and takes those for missing whose snapshotter is silent"
    if not unit.loaded:
        fix = "install config/cvmfs-snapshotter.service, or see that what starts the daemon does so before containerd"
        yield warning(name, f"systemd has no {PLUGIN}.service", why, fix)
        return
    if not unit.enabled:
        fix = f"systemctl enable {PLUGIN}"
        yield fault(name, f"{PLUGIN}.service is not enabled: it does not start with the node", why, fix)
    late = sorted(unit.engine_units - unit.before)
    if late:
        fix = f"systemctl edit {PLUGIN}: [Unit] and Before={' '.join(late)}"
        yield fault(name, f"{PLUGIN}.service is not ordered before {', '.join(late)}", why, fix)
    if unit.enabled and not late:
        yield fine(name, f"{PLUGIN}.service starts before {', '.join(sorted(unit.engine_units)) or 'containerd'}")


def kernel(facts: Facts) -> Iterator[Finding]:
    """overlayfs is there."""
    found, name = facts.kernel, "kernel"
    if found.overlay is False:
        yield fault(name, f"Linux {found.release} has no overlayfs", "no image can be mounted", "modprobe overlay")
        return
    if found.overlay is None:
        fix = "modprobe overlay, and add it to /etc/modules-load.d"
        yield warning(name, "overlayfs is not loaded", "it is loaded at the first mount, where that is allowed", fix)
        return
    index = "its index is switched off for each mount" if found.index_parameter else "it has no index"
    yield fine(name, f"Linux {found.release} has overlayfs; {index}")


def whiteouts(facts: Facts) -> Iterator[Finding]:
    """The 0:0 devices that stand for deletions can be made in our directory."""
    problem, name = facts.state.whiteout_problem, "whiteouts"
    if problem is None:
        fix = f"run as root, when {facts.config.root} exists"
        yield warning(name, f"not tried in {facts.state.probed}", "without them no layer can be served", fix)
    elif problem:
        fix = "Linux 5.8 or newer; before that give the daemon CAP_MKNOD and no PrivateDevices="
        why = "no layer can be served: deletions and the marks of a repository cannot be covered"
        yield fault(name, f"a 0:0 device cannot be made in {facts.state.probed}: {problem}", why, fix)
    elif _is_before_5_8(facts.kernel.release):
        what = f"Linux {facts.kernel.release} lets only CAP_MKNOD make 0:0 devices"
        fix = f"systemctl edit {PLUGIN}: CapabilityBoundingSet=CAP_MKNOD and PrivateDevices=no; or Linux 5.8"
        yield warning(name, what, "the daemon's service does not have that capability, as we ship it", fix)
    else:
        yield fine(name, f"0:0 devices can be made in {facts.state.probed}")


def _is_before_5_8(release: str) -> bool:
    numbers = re.match(r"(\d+)\.(\d+)", release)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) < (5, 8)


def state_filesystem(facts: Facts) -> Iterator[Finding]:
    """A file system that overlayfs takes as an upper, and that outlives a reboot as containerd's own does."""
    state, root, name = facts.state, facts.config.root, "state directory"
    if not state.filesystem:
        yield warning(
            name, f"the file system of {root} is not known", "not all can be written to by overlayfs", "see df"
        )
    elif state.filesystem in _UNFIT or state.filesystem.startswith("fuse"):
        fix = "move the state to a local ext4, xfs or btrfs: `root` in the configuration, before the first pull"
        what = f"{root} is on {state.filesystem}, which overlayfs cannot write to"
        yield fault(name, what, "no container can be started", fix)
    elif state.filesystem in ("tmpfs", "ramfs"):
        why = "after a reboot containerd knows images whose snapshots are gone"
        what, fix = f"{root} is in memory ({state.filesystem})", "move it to a disk, as containerd's own root"
        yield warning(name, what, why, fix)
    elif state.filesystem not in _GOOD:
        why = "whether overlayfs can write to it was not tested"
        yield warning(name, f"{root} is on {state.filesystem}", why, "take ext4, xfs or btrfs, or try a container")
    else:
        yield fine(name, f"{root} is on {state.filesystem}")
    if facts.kernel.user_namespace and state.xattr_problem:
        why = "in a user namespace overlayfs marks opaque directories with them"
        what = f"user.* attributes cannot be written in {state.probed}: {state.xattr_problem}"
        yield fault(name, what, why, "take a file system that has them")


def space(facts: Facts) -> Iterator[Finding]:
    """Room for what is not in a repository, and for what containers write."""
    state, name = facts.state, "space"
    if not state.capacity:
        return
    what = f"{state.free / _GIB:.1f} of {state.capacity / _GIB:.1f} GiB free below {state.probed}"
    fix = "remove unused images, or move the state to a larger disk"
    if state.free < 256 * _MIB or _lacks_inodes(state, 1000):
        yield fault(name, f"{what}, {state.free_inodes} inodes free", "pulls and containers fail", fix)
    elif state.free < state.capacity / 20 or _lacks_inodes(state, 50_000):
        yield warning(name, f"{what}, {state.free_inodes} inodes free", "it may be full soon", fix)
    else:
        yield fine(name, what)


def _lacks_inodes(state: StateFacts, least: int) -> bool:
    """File systems without a fixed number of inodes say that they have none at all."""
    return state.inodes > 0 and state.free_inodes < least


def selinux(facts: Facts) -> Iterator[Finding]:
    """Containers may read a repository."""
    found, name = facts.kernel, "selinux"
    if found.selinux != "enforcing":
        yield fine(name, f"SELinux is {found.selinux or 'not there'}")
        return
    on = sorted(switch for switch, is_on in found.booleans.items() if is_on)
    if on:
        yield fine(name, f"SELinux is enforcing, and {', '.join(on)} is on")
        return
    off = sorted(found.booleans)
    what = f"SELinux is enforcing, and {', '.join(off)} is off" if off else "SELinux is enforcing"
    fix = f"setsebool -P {off[0]} on" if off else "look for denials: ausearch -m avc -ts recent; allow what they name"
    yield warning(name, what, "containers may be refused what lies in a repository", fix)
