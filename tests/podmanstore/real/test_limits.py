"""Where a store ends: many layers on podman 4, mapped users, mounted images. What `check` says is what happens."""

import json
import re
from pathlib import Path

import pytest

from tests.podmanstore.real.world import SETUPS, World, command, serving

COUNT = ("sh", "-c", "ls /data | wc -l; ls /data/099 /data/001")


def test_an_image_of_100_layers(version: str, world: World, tmp_path: Path) -> None:
    """podman 5 runs it at any path; podman 4 where the store's path is as short as `check` says, which errs on the safe
    side by a character, for other paths are in the mount's options too."""
    said = command("check", "--store", world.stores["ours-both"])
    (allowed,) = {int(found) for found in re.findall(r"the store's path may have (\d+) characters", said)}
    works = {allowed: True, allowed + 2: version != "4.3"}
    for length, runs in works.items():
        place = Path("/" + "s" * (length - 1))
        with serving(world, version, SETUPS["kernel"], tmp_path / str(length), place) as podman:
            done = podman.run("run", "--rm", "--network=none", world.reference("deep"), *COUNT, check=False)
            assert ("mounting storage" in done.stderr) != runs, done.stderr
            assert (done.stdout.split()[:1] == ["7"]) == runs


def test_a_deep_image_of_a_raw_repository(version: str, world: World, tmp_path: Path) -> None:
    """100 raw layers are 299 directories: too many for podman 4, wherever the store is, and `check` says so."""
    said = json.loads(command("check", "--json", "--store", world.stores["ducc-kernel"]))
    assert (said["images"], said["podman4_images"], said["errors"]) == (5, 4, 0)
    assert "podman 4 mounts at most 128" in said["defects"][0]["text"]
    with serving(world, version, SETUPS["kernel-ducc"], tmp_path) as podman:
        done = podman.run("run", "--rm", "--network=none", world.reference("deep"), *COUNT, check=False)
        assert ("max depth exceeded" in done.stderr) == (version == "4.3"), done.stderr
        assert (done.stdout.split()[:1] == ["7"]) == (version != "4.3")


@pytest.mark.parametrize("option", ["--userns=auto", "--uidmap=0:100000:65536"])
def test_mapped_users_are_not_served(version: str, option: str, world: World, tmp_path: Path) -> None:
    """A container of root with mapped users fails: the files would have to change their owners, and CVMFS's cannot."""
    with serving(world, version, SETUPS["kernel"], tmp_path) as podman:
        done = podman.run("run", "--rm", "--network=none", option, world.reference("base"), "true", check=False)
        assert done.returncode != 0
