"""How to leave: who uses this snapshotter, and what to do in which order so that nothing breaks. Pure.

containerd does not start an image whose snapshotter is gone, and only the snapshotter can remove what it has. So a node
is drained while it still runs, and what would make new users of it is switched off first.
"""

from collections.abc import Sequence
from shlex import quote

import msgspec

from snapshotter.engineview import Container, EngineView, Image, Place

_LIKE_CRI = "k8s.io"


class ConfigLine(msgspec.Struct, frozen=True):
    """A line of containerd's configuration that concerns this snapshotter."""

    path: str
    number: int
    text: str


class Draining(msgspec.Struct, frozen=True):
    """Who uses it: containers, images, and snapshots that belong to neither (unpacked by hand, leased, or waiting for
    containerd's garbage collection), as `namespace/key`; `records` are those of the daemon, None where it could not be
    asked. `unknown` says what else could not be found out; empty where nothing is left to be asked."""

    snapshotters: tuple[str, ...]
    containers: tuple[Container, ...]
    images: tuple[Image, ...]
    snapshots: tuple[str, ...]
    records: int | None
    unknown: tuple[str, ...] = ()
    config: tuple[ConfigLine, ...] = ()

    @property
    def is_used(self) -> bool:
        return bool(self.containers or self.images or self.snapshots or self.records)

    @property
    def is_forgotten(self) -> bool:
        """Whether what is left is known to the daemon alone."""
        return bool(self.records and not (self.containers or self.images or self.snapshots))


def users(view: EngineView, records: int | None, problem: str = "", config: Sequence[ConfigLine] = ()) -> Draining:
    """Who uses the snapshotter; `problem` says why the daemon could not be asked for its `records`."""
    names = view.snapshotters
    containers = tuple(one for one in view.containers if one.snapshotter in names)
    images = tuple(one for one in view.images if any(name in one.unpacked for name in names))
    unknown = [problem] if problem else []
    if view.snapshots is None and view.problem:
        unknown.append(f"containerd {view.socket}: {view.problem}")
    return Draining(names, containers, images, _others(view), records, tuple(unknown), tuple(config))


def find_lines(path: str, text: str, names: Sequence[str], address: str) -> list[ConfigLine]:
    """Lines of a configuration file that name the snapshotter or its socket; comments are passed over."""
    words = (*(f'"{name}"' for name in names), *(f"'{name}'" for name in names),
             *(f"proxy_plugins.{name}" for name in names), address)  # fmt: skip
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    return [ConfigLine(path, number, line) for number, line in lines
            if not line.startswith("#") and any(word in line for word in words)]  # fmt: skip


def steps(found: Draining, root: str) -> list[tuple[str, list[str]]]:
    """What to do, in this order, each with its commands; what is done already is left out."""
    name = found.snapshotters[0] if found.snapshotters else "cvmfs-snapshotter"
    listed = [f"{line.path}:{line.number}: {line.text}" for line in found.config]
    plan: list[tuple[str, list[str]]] = []
    if found.is_used:
        plan.append((_SWITCH, [*_selecting(found), _RESTART]))
    if found.containers:
        plan.append(("Stop and remove these containers.", [_removal(one) for one in found.containers]))
    if found.images:
        plan.append((_REPULL, [_image_removal(one) for one in found.images]))
    if found.snapshots:
        removals = [_snapshot_removal(name, *place.split("/", 1)) for place in found.snapshots]
        plan.append(("Remove what else is left, in this order, or wait until its leases end.", removals))
    if found.is_forgotten:
        plan.append((_FORGOTTEN, ["cvmfs-snapshotter fsck --repair --older-than 0"]))
    if found.is_used:
        plan.append(("Ask again, until nothing uses it.", ["cvmfs-snapshotter drain"]))
    plan.append((_UNPLUG.format(name=name), [*listed, _RESTART]))
    plan.append(
        ("Stop the service; then its state may go.", [f"systemctl disable --now {_SERVICE}", f"rm -r {quote(root)}"])
    )
    return plan


_SERVICE, _RESTART = "cvmfs-snapshotter", "systemctl restart containerd"

_SWITCH = (
    "Let nothing new use it: set `snapshotter` in containerd's configuration back to overlayfs, for every runtime and"
    " for the transfer service. Leave [proxy_plugins] as it is: containerd needs the snapshotter to remove what it has."
    " Running containers do not notice."
)
_REPULL = "Remove these images. Those that are still wanted are pulled again, now with overlayfs."
_FORGOTTEN = (
    "Remove what containerd knows no more: its next garbage collection would, but it may let that lie for long. What is"
    " mounted stays."
)
_UNPLUG = (
    "Take the snapshotter out of containerd's configuration: the section [proxy_plugins.{name}], and every other line"
    " that names it."
)


def _others(view: EngineView) -> tuple[str, ...]:
    """Snapshots that neither a container nor an image needs, the topmost first."""
    snapshots = view.snapshots or {}
    needed = set[Place]()
    for place in view.users():
        at = place
        while at in snapshots and at not in needed:
            needed.add(at)
            at = Place(at.snapshotter, at.namespace, snapshots[at].parent)
    left = [(snapshots[place].created, str(place)) for place in snapshots if place not in needed]
    return tuple(name for _, name in sorted(left, reverse=True))


def _selecting(found: Draining) -> list[str]:
    """Lines that choose the snapshotter, rather than describe it."""
    return [f"{line.path}:{line.number}: {line.text}" for line in found.config if line.text.startswith("snapshotter")]


def _removal(container: Container) -> str:
    name = quote(container.id)
    if container.namespace == _LIKE_CRI:
        is_pod = container.labels.get("io.cri-containerd.kind") == "sandbox"
        return "crictl {0} {2} && crictl {1} {2}".format(*(("stopp", "rmp") if is_pod else ("stop", "rm")), name)
    ctr = f"ctr -n {quote(container.namespace)}"
    return f"{ctr} tasks kill -s SIGKILL {name}; {ctr} containers remove {name}"


def _image_removal(image: Image) -> str:
    return f"ctr -n {quote(image.namespace)} images remove --sync {quote(image.name)}"


def _snapshot_removal(snapshotter: str, namespace: str, key: str) -> str:
    return f"ctr -n {quote(namespace)} snapshots --snapshotter {quote(snapshotter)} remove {quote(key)}"
