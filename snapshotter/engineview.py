"""What a containerd knows, as values: containers, images, snapshots, and which of them are ours.

An image is unpacked to a snapshotter where the config that it leads to has a label that says so. The labels of
containerd's content are a graph of what refers to what, so no manifest is read for it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from cvmfsrepo.errors import FailedPrecondition, InvalidArgument, NotFound
from snapshotter.snapshots import Info

_BLOBS, _UNPACKED = "containerd.io/gc.ref.content", "containerd.io/gc.ref.snapshot."

_NAMES = ("nerdctl/name", "io.kubernetes.pod.name", "io.kubernetes.container.name")
"""Labels by which people know a container."""

_MOST_NAMED = 5


class Container(msgspec.Struct, frozen=True):
    """`key` is the name of its snapshot in `snapshotter` and `namespace`; "" where it has none."""

    namespace: str
    id: str
    image: str
    snapshotter: str
    key: str
    labels: Mapping[str, str] = {}

    def __str__(self) -> str:
        return f"container {self.namespace}/{self.id}"


class Image(msgspec.Struct, frozen=True):
    """`unpacked` maps a snapshotter to the snapshots, one a platform, that hold the image there: chain ids."""

    namespace: str
    name: str
    unpacked: Mapping[str, tuple[str, ...]] = {}

    def __str__(self) -> str:
        return f"image {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where containerd keeps a snapshot: keys are unique in a namespace of a snapshotter."""

    snapshotter: str
    namespace: str
    key: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.key}"


@dataclass(frozen=True, slots=True)
class EngineView:
    """`snapshotters` are the names under which this containerd knows our daemon. `snapshots` has what it lists of them:
    those that it knows and our daemon, too. None, and why in `problem`, where it could not be asked."""

    socket: str
    version: str
    snapshotters: tuple[str, ...]
    namespaces: tuple[str, ...]
    containers: tuple[Container, ...]
    images: tuple[Image, ...]
    snapshots: Mapping[Place, Info] | None
    problem: str = ""

    def users(self) -> Mapping[Place, tuple[str, ...]]:
        """The containers and images that need a snapshot of ours, by where it is kept."""
        found = dict[Place, list[str]]()
        for container in self.containers:
            if container.snapshotter in self.snapshotters and container.key:
                place = Place(container.snapshotter, container.namespace, container.key)
                found.setdefault(place, []).append(str(container))
        for image in self.images:
            for name in self.snapshotters:
                for chain in image.unpacked.get(name, ()):
                    found.setdefault(Place(name, image.namespace, chain), []).append(str(image))
        return {place: tuple(names) for place, names in found.items()}


def unpacked(target: str, blobs: Mapping[str, Mapping[str, str]]) -> Mapping[str, tuple[str, ...]]:
    """Snapshotters, and the snapshots in them, to which the image at a blob was unpacked; `blobs` maps all blobs of a
    namespace to their labels. Blobs that are missing are passed over: containerd may have discarded them."""
    pending, seen, found = [target], set[str](), dict[str, dict[str, None]]()
    while pending:
        digest = pending.pop()
        if digest in seen:
            continue
        seen.add(digest)
        for name, value in blobs.get(digest, {}).items():
            if name.startswith(_BLOBS):
                pending.append(value)
            elif name.startswith(_UNPACKED):
                snapshotter = name.removeprefix(_UNPACKED).partition("/")[0]
                found.setdefault(snapshotter, {})[value] = None
    return {snapshotter: tuple(chains) for snapshotter, chains in found.items()}


def find_container(containers: Sequence[Container], text: str) -> Container:
    """A container by its id, the beginning of one, or a name that its labels have. NotFound, and InvalidArgument where
    it means several."""
    if not text:
        raise InvalidArgument("container", text, "is no name")
    for found in _matches(containers, text):
        if len(found) == 1:
            return found[0]
        if found:
            named = ", ".join(f"{one.namespace}/{one.id} ({one.image})" for one in found[:_MOST_NAMED])
            raise InvalidArgument("container", text, f"means several: {named}")
    raise NotFound("container", text, "is no container of this containerd, nor a snapshot",
                   "`ctr -n NAMESPACE containers list` and `cvmfs-snapshotter snapshots` list them")  # fmt: skip


def record_name(container: Container, snapshotters: Sequence[str], names: Sequence[str]) -> str:
    """The name that our daemon has for a container's snapshot, out of all `names`."""
    who = f"{container.namespace}/{container.id}"
    if container.snapshotter not in snapshotters:
        raise FailedPrecondition("container", who, f"runs on snapshotter {container.snapshotter!r}, not on this one")
    found = [name for name in names if local_parts(name) == (container.namespace, container.key)]
    if not found:
        raise NotFound(
            "snapshot", container.key, f"of container {who} does not exist", "`cvmfs-snapshotter fsck` says more"
        )
    return max(found, key=lambda name: int(name.split("/")[1]))


def local_parts(name: str) -> tuple[str, str] | None:
    """Namespace and key in a name as containerd's metadata store makes them, `<namespace>/<number>/<key>`; None for a
    name that is not of that form."""
    namespace, _, rest = name.partition("/")
    number, slash, key = rest.partition("/")
    return (namespace, key) if slash and namespace and number.isascii() and number.isdigit() else None


def _matches(containers: Sequence[Container], text: str) -> Iterator[list[Container]]:
    """What the text may mean, the closest first."""
    yield [one for one in containers if text in (one.id, f"{one.namespace}/{one.id}")]
    yield [one for one in containers if one.id.startswith(text)]
    yield [one for one in containers if any(one.labels.get(name) == text for name in _NAMES)]
