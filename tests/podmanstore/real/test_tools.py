"""What reads a store as CRI-O does, with containers/storage: its own tool, skopeo and buildah."""

import json
from pathlib import Path

from tests.engines.podman import Podman
from tests.podmanstore.real.world import SETUPS, World, serving


def with_conf(podman: Podman, *command: str) -> list[str]:
    return ["env", f"CONTAINERS_STORAGE_CONF={podman.storage_conf}", *command]


def test_containers_storage_lists_and_mounts(version: str, world: World, tmp_path: Path) -> None:
    """CRI-O's library finds images by their names, their layers by their parents, and mounts a container on them."""
    image, reference = world.images["base"], world.reference("base")
    with serving(world, version, SETUPS["kernel"], tmp_path) as podman:
        tool = with_conf(podman, "containers-storage")
        images = json.loads(podman.exec(*tool, "images", "--json").stdout)
        assert image.config.removeprefix("sha256:") in {each["id"] for each in images}
        layers = json.loads(podman.exec(*tool, "layers", "--json").stdout)
        diff_digests = {each.get("diff-digest") for each in layers}
        assert diff_digests >= set(image.diff_ids)
        (made,) = (json.loads(podman.exec(*tool, "create-container", "--json", reference).stdout or "[{}]"),)
        container = made["id"]
        root = podman.exec(*tool, "mount", container).stdout.strip()
        assert podman.exec("ls", f"{root}/data").stdout.split() == ["one", "two"]
        podman.exec(*tool, "unmount", container)


def test_skopeo_and_buildah_read_the_store(version: str, world: World, tmp_path: Path) -> None:
    """skopeo copies an image out of it, digests unchanged; buildah builds on it."""
    image, reference = world.images["base"], world.reference("base")
    with serving(world, version, SETUPS["kernel"], tmp_path) as podman:
        copy = ("skopeo", "copy", "-q", f"containers-storage:{reference}", "dir:/tmp/copied")
        podman.exec(*with_conf(podman, *copy))
        config = json.loads(podman.exec("cat", f"/tmp/copied/{image.config.removeprefix('sha256:')}").stdout)
        assert config["rootfs"]["diff_ids"] == list(image.diff_ids)
        container = podman.exec("buildah", "from", "--pull-never", reference).stdout.strip()
        root = podman.exec("buildah", "mount", container).stdout.strip()
        assert podman.exec("ls", f"{root}/data").stdout.split() == ["one", "two"]
        podman.exec("buildah", "rm", container)
