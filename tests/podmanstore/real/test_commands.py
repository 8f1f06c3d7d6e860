"""What people do with podman, on images of a store: as root and as a user, by the kernel and by fuse-overlayfs."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.engines.podman import Podman, Result
from tests.podmanstore.real.conftest import need_users
from tests.podmanstore.real.world import PUBLISHED, SETUPS, Setup, World, serving


@dataclass(frozen=True, slots=True)
class Served:
    """A podman over a store of the world."""

    world: World
    setup: Setup
    podman: Podman

    @property
    def is_naive_on_4(self) -> bool:
        """Whether podman compares mounted trees where it would read a layer's directory, and wants to write to the
        store for that: podman 4 with fuse-overlayfs."""
        return self.podman.version == "4.3" and self.setup.fuse

    def said(self, image: str, script: str) -> list[str]:
        """The words that a shell in a container of the image says; nothing may be downloaded for it. A busy machine's
        podman may lose what a short container said, the last word too: then it says it again."""
        for _ in range(3):
            words = self.run(image, f"{script}; echo end").stdout.split()
            if words[-1:] == ["end"]:
                return words[:-1]
        raise AssertionError(f"{self.podman}: the output of {script!r} in {image!r} was lost three times")

    def run(self, image: str, script: str, check: bool = True) -> Result:
        command = ("run", "--rm", "--pull=never", "--network=none", image, "sh", "-c", script)
        return self.podman.run(*command, check=check)


@pytest.fixture(scope="module", params=SETUPS)
def served(
    request: pytest.FixtureRequest, version: str, world: World, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    setup = SETUPS[request.param]
    if setup.rootless:
        need_users()
    with serving(world, version, setup, tmp_path_factory.mktemp("podman")) as podman:
        yield Served(world, setup, podman)


def test_images_are_listed(served: Served) -> None:
    """Each by its names, the id that a pull would give it and the registry's digest, as read-only."""
    listed = json.loads(served.podman.run("images", "--format", "json").stdout)
    own = [image for image in listed if image.get("ReadOnly")]
    expected = {served.world.reference(name): name for name in PUBLISHED} | {"docker.io/library/tool:1": "tool"}
    found = {name: (image["Id"], image["Digest"]) for image in own for name in image["Names"]}
    images = {name: served.world.images[image] for name, image in expected.items()}
    if not served.setup.has_tars:  # of this one nobody has the original manifest
        assert found.pop(served.world.reference("deep"))
        del images[served.world.reference("deep")]
    assert found == {name: (image.config.removeprefix("sha256:"), image.manifest) for name, image in images.items()}
    digests = served.podman.run("images", "--digests", "--format", "{{.Repository}} {{.Digest}}").stdout
    assert f"docker.io/library/tool {served.world.images['tool'].manifest}" in digests


def test_an_image_runs_by_each_of_its_names_and_nothing_is_asked_for(served: Served) -> None:
    """The full name, the short one, digest and id: each runs the same, writes into it, and the registry rests."""
    image, reference = served.world.images["base"], served.world.reference("base")
    names = [reference, "base:1", f"{reference.removesuffix(':1')}@{image.manifest}", image.config.split(":")[1][:20]]
    mark = served.world.registry.mark()
    for name in names:
        script = "cat /data/two; ls -A /data; echo kept > /data/new; rm /data/one; cat /data/new; ls -A /data"
        assert served.said(name, script) == ["two", "one", "two", "kept", "new", "two"], name
    assert served.said("docker.io/library/tool:1", "ls -A /") == served.said("tool:1", "ls -A /")
    assert ".cvmfscatalog" not in served.said("tool:1", "ls -A /")
    assert served.world.registry.requests(mark) == []


def test_an_image_is_inspected(served: Served) -> None:
    """The layers are the config's, the history has an entry for each, `podman image exists` and `tree` know it."""
    image, reference = served.world.images["base"], served.world.reference("base")
    (described,) = json.loads(served.podman.run("image", "inspect", reference).stdout)
    assert (described["RootFS"]["Layers"], described["Digest"]) == (list(image.diff_ids), image.manifest)
    assert len(json.loads(served.podman.run("history", "--format", "json", reference).stdout)) == len(image.layers)
    served.podman.run("image", "exists", reference)


def test_images_that_share_layers_show_their_own_trees(served: Served) -> None:
    """One layer under two parents, one layer twice in an image, layers with nothing in them."""
    assert served.said(served.world.reference("sibling"), "cat /data/*; ls -A /data") == [
        "fresh",
        "two",
        "fresh",
        "two",
    ]
    assert served.said(served.world.reference("twice"), "ls -A /data") == ["one", "two"]


def test_an_image_is_built_on_and_committed(served: Served) -> None:
    """What is built has what its base has, what it deletes is gone, and so with a container that is committed."""
    reference = served.world.reference("base")
    mark = served.world.registry.mark()
    if served.is_naive_on_4:
        failed = served.podman.run(
            "build", "-q", "--pull=never", "-", stdin=f"FROM {reference}\nRUN true\n", check=False
        )
        assert "read-only file system" in failed.stderr
        return
    steps = f"FROM {reference}\nRUN rm /data/one && cat /data/two > /data/built\n"
    served.podman.run("build", "-q", "--pull=never", "-t", "localhost/built:1", "-", stdin=steps)
    assert served.said("localhost/built:1", "ls -A /data") == ["built", "two"]
    served.podman.run("run", "--network=none", "--name", "worked", reference, "sh", "-c", "echo more > /data/more")
    assert {"C /data", "A /data/more"} <= set(served.podman.run("diff", "worked").stdout.splitlines())
    served.podman.run("commit", "-q", "worked", "localhost/committed:1")
    served.podman.run("rm", "worked")
    assert served.said("localhost/committed:1", "ls -A /data") == ["more", "one", "two"]
    assert served.world.registry.requests(mark) == []
    if served.setup.has_tars:
        copy = served.world.registry.reference(f"copies/committed-{served.podman.version}:1")
        served.podman.run("push", "-q", "localhost/committed:1", copy)


def test_an_image_is_pushed_and_saved_where_its_tars_are_known(served: Served) -> None:
    """The tars are put together again, byte for byte; podman says so where the repository does not know how."""
    reference = served.world.reference("base")
    copy = served.world.registry.reference(f"copies/{served.podman.version}:1")
    pushed = served.podman.run("push", "-q", reference, copy, check=False)
    saved = served.podman.run("save", "-q", "--format", "oci-archive", "-o", "/tmp/saved", reference, check=False)
    if served.setup.has_tars:
        assert (pushed.returncode, saved.returncode) == (0, 0), pushed.stderr + saved.stderr
        mark = served.world.registry.mark()
        served.podman.exec("rm", "/tmp/saved")
        described = json.loads(served.podman.exec("skopeo", "inspect", "--config", f"docker://{copy}").stdout)
        assert described["rootfs"]["diff_ids"] == list(served.world.images["base"].diff_ids)
        assert served.world.layers_asked(mark) == set()
    else:
        problem = "read-only file system" if served.is_naive_on_4 else "Digest did not match"
        assert problem in pushed.stderr
        assert problem in saved.stderr


def test_a_pull_of_what_is_there_downloads_no_layer(served: Served) -> None:
    """Only the manifest and the config; the image is the user's own afterwards, and can be removed again."""
    image, reference = served.world.images["base"], served.world.reference("base")
    mark = served.world.registry.mark()
    assert served.podman.run("pull", "-q", reference).stdout.split()[-1] == image.config.removeprefix("sha256:")
    assert served.world.registry.blob_requests(mark) in ([], [image.config])
    assert served.said(reference, "ls -A /data") == ["one", "two"]
    served.podman.run("rmi", reference, check=False)
    assert served.said(reference, "ls -A /data") == ["one", "two"]


def test_of_a_users_image_only_its_own_layer_is_downloaded(served: Served) -> None:
    """An image that only the registry has, on layers of the store."""
    child, reference = served.world.images["child"], served.world.reference("child")
    mark = served.world.registry.mark()
    served.podman.run("pull", "-q", reference)
    assert sorted(served.world.registry.blob_requests(mark)) == sorted([child.layers[-1], child.config])
    assert served.said(reference, "cat /data/own; ls -A /data") == ["of", "the", "user", "one", "own", "two"]
    served.podman.run("rmi", reference)


def test_an_image_with_the_layers_in_another_order(served: Served) -> None:
    """No layer is downloaded: they are copied from the repository, and show what that order makes."""
    reference = served.world.reference("other-order")
    mark = served.world.registry.mark()
    if served.is_naive_on_4 and not served.setup.has_tars:
        assert "read-only file system" in served.podman.run("pull", "-q", reference, check=False).stderr
        return
    served.podman.run("pull", "-q", reference)
    assert served.world.layers_asked(mark) == set()
    assert served.said(reference, "ls -A /data") == ["gone", "one", "two"]
    served.podman.run("rmi", reference)


def test_what_podman_refuses_on_read_only_images(served: Served) -> None:
    """An image of the store is not removed or mounted as an image, and podman says why."""
    reference = served.world.reference("sibling")
    assert "read-only" in served.podman.run("rmi", reference, check=False).stderr
    shell = ["unshare", "podman"] if served.podman.rootless else []
    assert served.podman.run(*shell, "image", "mount", reference, check=False).returncode != 0
