"""A registry, repositories with the same images in two forms, their mounts and stores: what podmans here serve from.

All of it lies at a short path, for podman 4 counts the characters of a store's.
"""

import base64
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.engines.busybox import write_busybox
from tests.engines.podman import PODMANS, Bind, Podman, running_podman
from tests.engines.podmanroot import UID
from tests.engines.registry import Registry
from tests.fidelity.publishing import Form, publish
from tests.images.ocilayout import Image
from tests.images.tarlayer import Dir, Entry, File, Opaque, Whiteout
from tests.standins import standin

Layers = Sequence[Sequence[Entry]]

_ONE: Layers = [[Dir("data"), File("data/one", b"one\n"), File("data/gone", b"x")]]
_TWO: Layers = [[File("data/two", b"two\n"), Whiteout("data/gone")]]
_FRESH: Layers = [[Dir("data"), Opaque("data"), File("data/fresh", b"fresh\n")]]
_DEEP: Layers = [[File(f"data/{number:03}"), Whiteout(f"data/{number - 7:03}")] for number in range(1, 100)]
PUBLISHED: Mapping[str, Layers] = {
    "tool": [],
    "base": [*_ONE, *_TWO],
    "sibling": [*_FRESH, *_TWO],
    "twice": [*_ONE, *_TWO, *_ONE, [], *_TWO, []],
    "deep": _DEEP,
}
"""The layers above busybox; layers without entries are meant."""
OF_USERS: Mapping[str, Layers] = {
    "child": [*_ONE, *_TWO, [File("data/own", b"of the user\n")]],
    "other-order": [*_TWO, *_ONE],
}
"""Images that only the registry has."""
HUB = "registry.hub.docker.com/library/tool:1"


@dataclass(frozen=True, slots=True)
class World:
    """`mounts` and `stores` are by name (see `SETUPS`); `images` but the deep one are in the registry as
    `test/<name>:1`."""

    directory: Path
    registry: Registry
    images: Mapping[str, Image]
    mounts: Mapping[str, Path]
    stores: Mapping[str, Path]

    def reference(self, name: str) -> str:
        return self.registry.reference(f"test/{name}:1")

    def layers_asked(self, since: int) -> set[str]:
        """Digests of all layers that were downloaded since a mark."""
        every = {layer for image in self.images.values() for layer in image.layers}
        return every.intersection(self.registry.blob_requests(since))


@dataclass(frozen=True, slots=True)
class Setup:
    """A way to serve a store: the `repository` below, the mount kind that its store is built for, and the podman."""

    repository: Literal["ours", "ducc", "claimed"]
    built: Literal["kernel", "fuse-overlayfs", "both"]
    rootless: bool = False
    fuse: bool = False

    @property
    def store(self) -> str:
        return f"{self.repository}-{self.built}"

    @property
    def has_tars(self) -> bool:
        """Whether the repository knows what gives a layer's tar back."""
        return self.repository != "ducc"


SETUPS: Mapping[str, Setup] = {
    "kernel": Setup("ours", "both"),
    "kernel-ducc": Setup("ducc", "kernel"),
    "fuse": Setup("ours", "both", fuse=True),
    "rootless-fuse-ducc": Setup("ducc", "fuse-overlayfs", rootless=True, fuse=True),
    "rootless-fuse": Setup("ours", "both", rootless=True, fuse=True),
    "rootless-claimed": Setup("claimed", "both", rootless=True),
}


@contextmanager
def world() -> Iterator[World]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cv-", dir="/tmp")))
        directory.chmod(0o755)
        registry = stack.enter_context(Registry(directory / "registry"))
        images = {name: _image(directory, registry, name) for name in (*PUBLISHED, *OF_USERS)}
        for form in (Form.OVERLAY, Form.DUCC):
            for name in PUBLISHED:
                publish(images[name], directory / form.value, registry.reference(f"test/{name}:1"), form)
            publish(images["tool"], directory / form.value, HUB, form)
        for name in ("tool", "deep"):
            _keep_as_ducc_does(images[name], directory / Form.DUCC.value)
        mounts = {"ours": directory / "o", "ducc": directory / "d", "claimed": directory / "c"}
        for name, form in (("ours", Form.OVERLAY), ("ducc", Form.DUCC), ("claimed", Form.OVERLAY)):
            owner = (UID, UID) if name == "claimed" else None
            stack.enter_context(standin(directory / form.value, mounts[name], kcache=60, claim=owner))
        stores: dict[str, Path] = {}
        for setup in SETUPS.values():
            if setup.store not in stores:
                stores[setup.store] = directory / f"s{len(stores)}"
                build(mounts[setup.repository], stores[setup.store], setup.built, "--fetch-configs")
        yield World(directory, registry, images, mounts, stores)


def _image(directory: Path, registry: Registry, name: str) -> Image:
    image = write_busybox(directory / "layout", name, {**PUBLISHED, **OF_USERS}[name])
    if name != "deep":  # which takes seconds
        registry.push(image.path, image.ref, f"test/{name}:1")
    return image


def _keep_as_ducc_does(image: Image, repository: Path) -> None:
    """DUCC keeps configs in the store that it makes for podman, and nowhere else."""
    name = "=" + base64.b64encode(image.config.encode()).decode()
    directory = repository / "podmanStore/overlay-images" / image.config.removeprefix("sha256:")
    directory.mkdir(parents=True)
    (directory / name).write_bytes(image.blob(image.config).read_bytes())


def build(repository: Path, store: Path, kind: str = "both", *more: str) -> str:
    """The command; every image must be served. What it said."""
    return command("build", "--repository", repository, "--store", store, "--mount", kind, *more)


def command(*arguments: object, status: int | None = 0) -> str:
    """`cvmfs-podmanstore ARGUMENTS`, which must end with this status, if any is given; what it said."""
    line = [sys.executable, "-m", "podmanstore.cli", *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert status is None or done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@contextmanager
def serving(world: World, version: str, setup: Setup, directory: Path, place: Path | None = None) -> Iterator[Podman]:
    """A podman with the store of a setup, read-only, at its own path or at another `place`."""
    store = world.stores[setup.store]
    binds = [Bind(world.mounts[setup.repository], read_only=True), Bind(store, place, read_only=True)]
    with running_podman(
        version, directory, stores=[place or store], binds=binds, rootless=setup.rootless,
        mount_program="fuse-overlayfs" if setup.fuse else None,
        mountopt="nodev,squash_to_root" if setup.fuse and setup.rootless else "nodev",
    ) as podman:  # fmt: skip
        yield podman


__all__ = ["HUB", "PODMANS", "PUBLISHED", "SETUPS", "Setup", "World", "build", "command", "serving", "world"]
