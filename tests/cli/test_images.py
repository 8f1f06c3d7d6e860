"""`images`, `layer`, `when` and `wait-for`."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from tests import mounting
from tests.cli.commands import IMAGE, Said, Told, command, told
from tests.snapshotter.indexing import Published
from tests.snapshotter.layers import NAME, diff_id_of
from tests.snapshotter.nodes import eventually

LATER = "registry.example.org/me/job:7"


def test_images_are_listed(node: Told) -> None:
    """With their repository, the number of layers and since when they are seen; by a pattern, too."""
    said = node("images")
    assert said.cells(IMAGE)[:3] == [IMAGE, NAME, "2"]
    (image,) = node("images", "--json", "*/atlas/*").json
    assert (image["reference"], image["layers"]) == (IMAGE, [str(layer) for layer in node.layers])
    assert image["first_seen"] > 10**18
    assert node("images", "--json", "*/cms/*").json == []


def test_a_layer_is_found_by_its_digest_and_by_its_diff_id(node: Told) -> None:
    """With its size, the images that have it and the snapshots that show it."""
    layer = node.layers[0]
    (by_digest,) = node("layer", str(layer), "--json").json
    assert by_digest == node("layer", str(diff_id_of(layer)), "--json").json[0]
    assert (by_digest["digest"], by_digest["diff_id"]) == (str(layer), str(diff_id_of(layer)))
    assert (by_digest["size"], by_digest["tar_size"]) == (1000, 4096)
    assert (by_digest["images"], by_digest["snapshots"]) == ([IMAGE], [node.names[0]])
    said = node("layer", str(layer))
    assert said.cells("size") == ["size", "1.0 KB compressed, 4.1 KB as a tar"]
    assert said.cells("used by") == ["used by", "1 image, 1 snapshot"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("digest", "problem"),
    [(str(Digest.of(b"unknown")), "is in no index and in no snapshot of this node"), ("sha256:12", "is not sha256:")],
)
def test_a_layer_that_nobody_knows_is_an_error(node: Told, digest: str, problem: str) -> None:
    """As is what is no digest."""
    said = node("layer", digest)
    assert (said.status, said.out) == (1, "")
    assert problem in said.err


def test_when_says_since_when(node: Told) -> None:
    """Exit status 0, with the time of this node's first sight."""
    said = node("when", IMAGE)
    assert said.status == 0
    assert said.out.startswith(f"{IMAGE} in {NAME}: first seen 20")
    assert node("when", IMAGE, "--json").json["first_seen"] == node("images", "--json").json[0]["first_seen"]


@pytest.mark.slow
def test_when_says_no(node: Told) -> None:
    """Exit status 3 and null for an image that is not there; 1 for what is no image's name."""
    no, none = node("when", LATER), node("when", LATER, "--json")
    assert (no.status, no.out) == (3, f"image '{LATER}': no repository of this node holds it\n")
    assert (none.status, none.json) == (3, None)
    assert node("when", "Not A Name").status == 1


@pytest.mark.slow
def test_wait_for_ends_when_the_image_comes(tmp_path: Path) -> None:
    """Within a second or two, though the index of a repository without revisions reads only every few minutes."""
    with told(tmp_path, index_interval=300) as node, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(node, "wait-for", LATER, "--timeout", "60")
        time.sleep(2)
        assert not waiting.done()
        node.repository.publish(LATER, node.layers)
        said: Said = waiting.result(10)
    assert said.status == 0
    assert said.out == f"{LATER} in {NAME}: there now\n"


@pytest.mark.slow
def test_wait_for_gives_up(node: Told) -> None:
    """Exit status 3 after the timeout; at once with none."""
    began = time.monotonic()
    said = node("wait-for", LATER, "--timeout", "1.5")
    assert (said.status, said.out) == (3, f"image '{LATER}': no repository of this node holds it after 1.5 s\n")
    assert time.monotonic() - began >= 1.5
    assert node("wait-for", LATER, "--timeout", "0").status == 3
    assert node("wait-for", IMAGE, "--timeout", "0").status == 0


@pytest.mark.slow
def test_a_user_may_ask_without_a_daemon(tmp_path: Path) -> None:
    """The repositories themselves answer: no state, no socket and no privilege is needed."""
    repository = Published(tmp_path / "repository")
    repository.publish(IMAGE, [repository.add("base")])
    config = tmp_path / "config.toml"
    config.write_text(f'repository = "{NAME}"\nabsolute-mountpoint = "{repository.root}"\nroot = "{tmp_path}/none"\n')
    arguments = ("--config", str(config), "--address", str(tmp_path / "s.sock"))
    said = command("when", IMAGE, *arguments)
    assert (said.status, said.out) == (0, f"{IMAGE} in {NAME}: there now\n")
    assert command("wait-for", LATER, "--timeout", "0", *arguments).status == 3
    repository.root.rename(tmp_path / "away")
    away = command("when", IMAGE, *arguments)
    assert away.status == 1
    assert "cannot be looked for now (unmounted: " in away.err
    late = command("wait-for", IMAGE, "--timeout", "0", *arguments)
    assert late.status == 3
    assert "cannot be looked for now (unmounted: " in late.out


@pytest.fixture
def stalled(tmp_path: Path) -> Iterator[tuple[mounting.Standin, tuple[str, ...]]]:
    """A repository whose client hangs, and the options of commands about it."""
    mounting.needs_fuse()
    repository = Published(tmp_path / "source")
    repository.publish(IMAGE, [repository.add("base")])
    with mounting.standin(repository.root, tmp_path / "mount") as standin:
        config = tmp_path / "config.toml"
        config.write_text(
            f'repository = "{NAME}"\nabsolute-mountpoint = "{standin.mountpoint}"\nroot = "{tmp_path}/none"\n'
            "deadline = 0.5\nprobe-interval = 0.2\n"
        )
        yield standin, ("--config", str(config), "--address", str(tmp_path / "s.sock"))
        standin.clear()


@pytest.mark.root
@pytest.mark.fuse
def test_wait_for_outlives_a_repository_that_hangs(stalled: tuple[mounting.Standin, tuple[str, ...]]) -> None:
    """`when` says that it cannot tell; `wait-for` goes on and finds the image when the repository answers again."""
    standin, arguments = stalled
    standin.fault("stall", seconds=6)
    hanging = command("when", IMAGE, *arguments)
    assert hanging.status == 1
    assert "cannot be looked for now (timeout: " in hanging.err
    waited = command("wait-for", IMAGE, "--timeout", "60", *arguments)
    assert (waited.status, waited.out) == (0, f"{IMAGE} in {NAME}: there now\n")


@pytest.mark.slow
def test_malformed_entries_are_named(tmp_path: Path) -> None:
    """What the index passes over, by path and problem."""
    with told(tmp_path, index_interval=0.2) as node:
        node.repository.publish_text("registry.example.org/bad:1", "{not json")
        eventually(lambda: node("images", "--malformed", "--json").json, 30)
        said, found = node("images", "--malformed"), node("images", "--malformed", "--json").json
    assert [problem["path"] for problem in found[NAME]] == [".metadata/registry.example.org/bad:1"]
    assert said.cells(NAME)[1] == ".metadata/registry.example.org/bad:1"
    assert "does not parse" in said.out


@pytest.mark.slow
def test_without_an_index_the_commands_say_so(tmp_path: Path) -> None:
    """`images` needs it; `when` asks the repository, and a layer in use is known by its snapshots."""
    with told(tmp_path, tables="index = false\n") as node:
        listing, image = node("images"), node("when", IMAGE)
        (layer,) = node("layer", str(node.layers[0]), "--json").json
        status = node("status", "--json").json
    assert listing.status == 1
    assert "index = true" in listing.err
    assert (image.status, image.out) == (0, f"{IMAGE} in {NAME}: there now\n")
    assert (layer["repository"], layer["snapshots"]) == ("", [node.names[0]])
    assert status["repositories"][0]["index"] is None
    assert status["served"]["unknown"] == 2
