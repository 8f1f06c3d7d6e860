"""What happens to people's podmans while a store changes: images come and go, the repository is away."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.engines.busybox import base_entries, write_busybox
from tests.engines.podman import Bind, Podman, running_podman
from tests.fidelity.publishing import publish
from tests.images.ocilayout import Image, write_image
from tests.images.tarlayer import File, layer_tar
from tests.podmanstore.real.world import SETUPS, World, command, serving
from tests.standins import Standin, standin

FIRST, SECOND = "docker.io/library/first:1", "docker.io/library/second:1"


@dataclass(frozen=True, slots=True)
class Small:
    """A repository of one image, and room for another, with a store."""

    directory: Path
    images: dict[str, Image]
    served: Standin

    @property
    def source(self) -> Path:
        return self.directory / "source"

    @property
    def mount(self) -> Path:
        return self.directory / "cvmfs"

    @property
    def store(self) -> Path:
        return self.directory / "store"

    def publish(self, name: str) -> None:
        publish(self.images[name], self.source, name)
        self.served.publish()

    def withdraw(self, name: str) -> None:
        shutil.rmtree(self.source / ".metadata" / name)
        self.served.publish()

    def command(self, verb: str, *more: str) -> str:
        return command(verb, "--repository", self.mount, "--store", self.store, *more)

    @contextmanager
    def podman(self, version: str) -> Iterator[Podman]:
        binds = [Bind(self.mount, read_only=True)]
        with running_podman(version, self.directory / version, stores=[self.store], binds=binds) as podman:
            yield podman


@pytest.fixture
def small() -> Iterator[Small]:
    with tempfile.TemporaryDirectory(prefix="cv-", dir="/tmp") as directory:
        layout = Path(directory, "layout")
        images = {
            name: write_busybox(layout, Path(name).name[:5], [[File("which", name.encode())]])
            for name in (FIRST, SECOND)
        }
        Path(directory).chmod(0o755)
        publish(images[FIRST], Path(directory, "source"), FIRST)
        with standin(Path(directory, "source"), Path(directory, "cvmfs")) as served:
            made = Small(Path(directory), images, served)
            made.command("build")
            yield made


def names(images: list[dict[str, object]], key: str) -> set[str]:
    return {str(name) for image in images for name in image[key] or []}  # type: ignore[attr-defined]


def listed(podman: Podman) -> set[str]:
    return names(json.loads(podman.run("images", "--format", "json").stdout), "Names")


def test_a_running_service_sees_each_build(version: str, small: Small) -> None:
    """An image that comes and one that goes, without a restart; a build that changes nothing changes no file."""
    with small.podman(version) as podman, podman.service() as service:
        assert names(service.get("/images/json"), "RepoTags") == {FIRST}
        small.publish(SECOND)
        assert "1 images added" in small.command("build")
        assert names(service.get("/images/json"), "RepoTags") == {FIRST, SECOND}
        before = {path: path.lstat().st_mtime_ns for path in small.store.rglob("*")}
        assert "nothing changed" in small.command("build")
        assert {path: path.lstat().st_mtime_ns for path in small.store.rglob("*")} == before
        small.withdraw(FIRST)
        small.command("build")
        assert names(service.get("/images/json"), "RepoTags") == {SECOND}


def test_an_image_that_is_withdrawn_and_pruned(version: str, small: Small) -> None:
    """A user's image on its layers runs until `prune --yes`; then it is broken as `prune` said, and whole again when
    the image is published again."""
    with small.podman(version) as podman:
        podman.run("build", "-q", "-t", "localhost/mine:1", "-", stdin=f"FROM {FIRST}\nRUN echo mine > /mine\n")
        small.publish(SECOND)
        small.withdraw(FIRST)
        small.command("build")
        assert listed(podman) == {SECOND, "localhost/mine:1"}
        run = ("run", "--rm", "--network=none", "localhost/mine:1", "cat", "/which", "/mine")
        assert podman.run(*run).stdout == f"{FIRST}mine\n"
        assert "stop working" in small.command("prune")
        assert podman.run(*run).stdout == f"{FIRST}mine\n"
        assert "removed" in small.command("prune", "--yes")
        assert podman.run(*run, check=False).returncode != 0
        assert podman.run("images", "--quiet", check=False).returncode == (125 if version == "4.3" else 0)
        small.publish(FIRST)
        small.command("build")
        assert podman.run(*run).stdout == f"{FIRST}mine\n"
        assert listed(podman) == {FIRST, SECOND, "localhost/mine:1"}


@pytest.mark.parametrize("setup", ["kernel", "kernel-ducc"])
def test_a_repository_that_is_not_mounted(version: str, setup: str, world: World, tmp_path: Path) -> None:
    """What needs no layer works as before; what does names the missing path, and nothing is downloaded for it; a
    user's own images run. It is mounted again, and all is well."""
    with serving(world, version, SETUPS[setup], tmp_path) as podman:
        mount, base = world.mounts[SETUPS[setup].repository], world.reference("base")
        own = _own_image(podman, tmp_path / "own")
        before = podman.run("images", "--digests").stdout
        podman.exec("umount", mount, as_root=True)
        assert podman.run("images", "--digests").stdout == before
        for arguments in (
            ("history", base),
            ("image", "exists", base),
            ("info",),
            ("ps", "-a"),
            ("tag", base, "mine:1"),
        ):
            podman.run(*arguments)
        inspected = podman.run("image", "inspect", base, check=False)
        assert (inspected.returncode == 0) == (version == "5.8")
        assert version == "5.8" or "Can't read link" in inspected.stderr
        mark = world.registry.mark()
        failed = podman.run("run", "--rm", "--network=none", base, "true", check=False)
        assert failed.returncode != 0
        assert "no such file or directory" in failed.stderr.lower()
        child = podman.run("pull", "-q", world.reference("child"), check=False)
        if SETUPS[setup].has_tars:  # the entries are links; those of raw layers are directories of the store
            assert "no such file or directory" in child.stderr
        assert world.layers_asked(mark) <= {world.images["child"].layers[-1]}
        assert podman.run("run", "--rm", "--network=none", own, "cat", "/own").stdout == "own\n"


def _own_image(podman: Podman, directory: Path) -> str:
    """The id of an image in podman's own storage, which shares no layer with the store."""
    write_image(directory, [layer_tar([*base_entries(), File("own", b"own\n")])], "own")
    shutil.copytree(directory, podman.inside("/tmp/own"))
    return podman.run("pull", "-q", "oci:/tmp/own:own").stdout.strip()
