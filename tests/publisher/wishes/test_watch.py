"""`watch`: what a pass is made of, and what ends none of them."""

import errno
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from threading import Event
from typing import IO

import pytest

from cvmfsrepo.errors import Unavailable
from publisher.metrics import Metrics
from publisher.wishes.recipe import Recipe, parse_recipe
from publisher.wishes.run import Outcome
from publisher.wishes.watch import Watch
from tests.images.tarlayer import File, layer_tar
from tests.publisher.publishing import command, make_image, make_repository
from tests.publisher.wishes.stub import Stub, running
from tests.snapshotter.nodes import eventually

RECIPE = parse_recipe(b"version: 1\ninput: []\n", "r")


class Now(Event):
    """Waits for nothing, and notes what it would have waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.waited = list[str]()

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append("not at all" if self.is_set() else "for the next pass")
        return self.is_set()


@dataclass
class Scene:
    """A watch of three passes, each of which does what `each` says, and each look at the recipe what `reading` says."""

    each: Callable[[], None] = lambda: None
    reading: Callable[[int], None] = lambda number: None
    said: list[str] = field(default_factory=list)
    now: Now = field(default_factory=Now)
    metrics: Metrics = field(default_factory=Metrics)

    def watch(self) -> None:
        passes, reads, stop = list[int](), list[int](), Event()

        def run(recipe: Recipe) -> tuple[Outcome, ...]:
            passes.append(1)
            if len(passes) == 3:
                stop.set()
            self.each()
            return ()

        def read() -> Recipe:
            reads.append(1)
            self.reading(len(reads))
            return RECIPE

        Watch(read, run, self.said.append, 600, self.metrics, stop, self.now).for_ever()


@pytest.mark.parametrize(
    ("error", "said", "reason"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/s/x"),
            "state '/s/x': cannot be kept: No space",
            "unavailable",
        ),
        (Unavailable("repository", "r", "is busy"), "repository 'r': is busy", "unavailable"),
    ],
)
def test_a_pass_that_is_given_up(error: Exception, said: str, reason: str) -> None:
    """Is told and counted, and the next one comes in its time."""

    def fail() -> None:
        raise error

    scene = Scene(fail)
    scene.watch()
    assert [said in line and line.startswith("this pass was given up") for line in scene.said] == [True] * 3
    assert scene.now.waited == ["for the next pass"] * 3
    _, _, text = scene.metrics.pages()["/metrics"]("")
    assert f'failures_total{{reason="{reason}"}} 3.0' in text.decode()


def test_a_call_for_a_pass_while_the_recipe_is_read() -> None:
    """Is not forgotten: it may mean what was changed since the look."""
    scene = Scene()

    def called_at_the_second(number: int) -> None:
        if number == 2:
            scene.now.set()

    scene.reading = called_at_the_second
    scene.watch()
    assert scene.now.waited == ["for the next pass", "not at all", "for the next pass"]


@contextmanager
def watching(*words: str) -> Iterator[IO[str]]:
    """What a real one says."""
    with subprocess.Popen(command("watch", *words, "--interval", "1"), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield process.stdout
        finally:
            process.terminate()
            process.communicate(timeout=60)


@pytest.mark.slow
@pytest.mark.root
def test_a_recipe_that_asks_for_more(tmp_path: Path) -> None:
    """A store for podman that is wished for while it runs is made by the next pass."""
    repository, recipe = make_repository(tmp_path / "repository"), tmp_path / "recipe.yaml"
    with running(Stub(images={"one:1": make_image(tmp_path / "image", layer_tar([File("f")]))})) as stub:
        wish = f"version: 1\ninput: ['http://{stub.address}/one:1']\n"
        recipe.write_text(wish)
        where = ("--repository", str(repository), "--state", str(tmp_path / "state"))
        with watching(str(recipe), *where) as lines:
            assert lines.readline().startswith("published")
            changed = tmp_path / "changed"
            changed.write_text(f"{wish}cvmfs-publisher: {{podman-store: true}}\n")
            changed.rename(recipe)
            eventually((repository / "podmanStore/overlay-images/images.json").exists, 60)


@pytest.mark.slow
@pytest.mark.root
def test_a_recipe_without_a_repository(tmp_path: Path) -> None:
    """As good as a broken one: the last good one is kept."""
    recipe, changed = tmp_path / "recipe.yaml", tmp_path / "changed"
    recipe.write_text("version: 1\ncvmfs_repo: images.example.org\ninput: []\n")
    changed.write_text("version: 1\ninput: []\n")
    with watching(str(recipe), "--state", str(tmp_path / "state"), "--scratch", str(tmp_path / "scratch")) as lines:
        assert lines.readline() == "0 of 0 complete\n"
        changed.rename(recipe)
        said = next(line for line in islice(lines, 60) if "complete" not in line)
        assert said.startswith("the last good recipe is kept: recipe")
        assert "names no cvmfs_repo; give either --repository DIR or --cvmfs FQRN" in said
