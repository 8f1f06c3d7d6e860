"""`expire-days` of a recipe: passes, status and collection agree on whose time is over."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Reference
from publisher.collecting.collect import Terms, collect, rehearse
from publisher.collecting.expiry import Rule
from publisher.collecting.memory import MemoryFile
from publisher.registry.registries import Registries
from publisher.transactions.directory import DirectoryTarget
from publisher.wishes.expiring import read_expiring
from publisher.wishes.recipe import parse_recipe
from publisher.wishes.run import Pass
from publisher.wishes.state import DAY, StateDirectory
from publisher.wishes.status import walk_status
from tests.images.tarlayer import File, layer_tar
from tests.publisher.publishing import make_image, run, state
from tests.publisher.wishes.stub import Stub, running

pytestmark = pytest.mark.root


@dataclass(slots=True)
class Scene:
    """A registry, a repository, and what happens `days` from now."""

    stub: Stub
    directory: Path
    days: float = 0
    expire: int | None = 30

    @property
    def now(self) -> float:
        return time.time() + self.days * DAY

    @property
    def target(self) -> DirectoryTarget:
        return DirectoryTarget.at(self.directory / "repository", durable=False)

    @property
    def known(self) -> StateDirectory:
        return StateDirectory.at(self.directory / "state")

    def one_pass(self) -> list[str]:
        key = f"cvmfs-publisher: {{expire-days: {self.expire}}}\n" if self.expire else ""
        text = f"version: 1\ninput: ['http://{self.stub.address}/user/*']\n{key}"
        made = Pass(self.target, Registries(), self.known, started=self.now).run(parse_recipe(text.encode(), "r"))
        return [outcome.word for outcome in made]

    def status(self) -> list[str]:
        return [line.word for line in walk_status(self.known, self.target.layout, self.now)]

    def terms(self, *rules: str) -> Terms:
        expiring = read_expiring([self.directory / "state"])
        memory = MemoryFile.at(self.directory / "state", self.target.layout.root)
        return Terms(
            memory, wished=self.wished, rules=(*map(Rule.parse, rules), *expiring.rules), pushed=expiring.pushed,
            clock=lambda: self.now,
        )  # fmt: skip

    @property
    def wished(self) -> tuple[str, ...]:
        wanted = self.known.wanted()
        return wanted.lasting if wanted else ()

    def collected(self, *rules: str) -> list[str]:
        """Names that a collection withdraws, without the registry."""
        report = collect(self.target, self.terms(*rules))
        return sorted(thing.name.partition("/")[2] for thing in report.things if thing.kind == "name")

    def shows(self, name: str) -> bool:
        return self.target.layout.manifest_json(Reference.parse(f"{self.stub.address}/{name}")).is_file()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    (tmp_path / "repository").mkdir()
    images = {
        f"user/{name}:1": make_image(tmp_path / name, layer_tar([File("f", name.encode())])) for name in ("a", "b")
    }
    with running(Stub(images=images)) as stub:
        yield Scene(stub, tmp_path)


def test_an_image_expires_and_a_push_brings_it_back(scene: Scene) -> None:
    """So many days after its last push, though it is wished for: passes leave it, status says it, and it is withdrawn;
    what was pushed meanwhile has its own days."""
    assert scene.one_pass() == ["published", "published"]
    scene.days = 20
    scene.stub.images["user/b:1"] = scene.stub.images["user/a:1"]
    republish_with_age(scene, "user/b:1", 20)
    scene.days = 29.9
    assert (scene.one_pass(), scene.status(), scene.collected()) == (["present"] * 2, ["present"] * 2, [])
    scene.days = 30.1
    scene.stub.requests.clear()
    assert scene.one_pass() == ["expired", "present"]
    assert all(request.startswith(("HEAD", "GET /v2/_catalog")) or "tags" in request for request in scene.stub.requests)
    assert scene.status() == ["expired", "present"]
    assert scene.collected() == ["user/a:1"]
    assert (scene.shows("user/a:1"), scene.shows("user/b:1")) == (False, True)
    assert (scene.one_pass(), scene.status()) == (["expired", "present"], ["expired", "present"])
    scene.stub.images["user/a:1"] = make_image(scene.directory / "new", layer_tar([File("f", b"new")]))
    assert scene.one_pass() == ["published", "present"]
    assert scene.shows("user/a:1")


def republish_with_age(scene: Scene, name: str, days: float) -> None:
    """A pass that finds something new under the name, so many days from now."""
    assert sorted(scene.one_pass()) == ["present", "published"]
    known = scene.known.find(Reference.parse(f"{scene.stub.address}/{name}"))
    assert known
    path = next(p for p in (scene.directory / "state/images").iterdir() if name in p.read_text())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"published_at": time.time() + days * DAY}))


def test_the_list_of_what_never_expires_does_not_have_it(scene: Scene) -> None:
    """Else its days would begin when it was last in the list; without the key everything is in it, and comes back."""
    scene.one_pass()
    assert scene.wished == ()
    scene.days = 31
    assert scene.collected() == ["user/a:1", "user/b:1"]
    scene.expire = None
    assert scene.one_pass() == ["published", "published"]
    assert (scene.collected(), len(scene.wished)) == ([], 2)


def test_what_an_operator_says_comes_first(scene: Scene) -> None:
    """Rules of the command line, and wishes of other recipes."""
    scene.one_pass()
    scene.days = 31
    assert scene.collected("*/a:1=never", "*/b:1=60") == []
    scene.days = 61
    assert scene.collected("*/a:1=never", "*/b:1=60") == ["user/b:1"]


def test_a_dry_run_writes_nothing(scene: Scene) -> None:
    """Nor does it mend damaged state: such an image stays."""
    scene.one_pass()
    scene.days = 31
    path = min((scene.directory / "state/images").iterdir())
    path.write_text("{")
    before = state(scene.directory)
    report = rehearse(Layout(scene.directory / "repository"), scene.terms())
    assert [thing.kind for thing in report.things].count("name") == 1
    assert state(scene.directory) == before


@pytest.mark.slow
def test_the_commands(scene: Scene) -> None:
    """`status` as a table and as JSON, with the queue of a listener beside it; `collect` reads the recipe's state."""
    recipe = scene.directory / "recipe.yaml"
    recipe.write_text(
        f"version: 1\ninput: ['http://{scene.stub.address}/user/a:1', 'http://{scene.stub.address}/none:1']\n"
        "cvmfs-publisher: {expire-days: 30}\n"
    )
    where = ["--repository", str(scene.directory / "repository"), "--state", str(scene.directory / "state")]
    run("wishlist", str(recipe), *where, "--wished", str(scene.directory / "wished"))
    assert (scene.directory / "wished").read_text() == ""
    path = next(p for p in (scene.directory / "state/images").iterdir() if "user/a" in p.read_text())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"published_at": time.time() - 31 * DAY}))
    jobs = scene.directory / "queue/jobs"
    jobs.mkdir(parents=True)
    queue = ["--queue", str(scene.directory / "queue")]
    shown = run("status", *where, *queue)
    lines = shown.stdout.splitlines()
    assert shown.returncode == 1
    assert lines[0].split() == ["IMAGE", "FOR", "WHY"]
    assert lines[1].split()[:3] == ["expired", f"{scene.stub.address}/user/a:1", "24"]
    assert lines[2].startswith("failed")
    assert "has no manifest" in lines[2]
    assert lines[3] == "1 expired, 1 failed"
    assert [line["word"] for line in json.loads(run("status", *where, "--json").stdout)] == ["expired", "failed"]
    alone = run("status", *queue)
    assert (alone.returncode, alone.stdout) == (0, "nothing is known\n")
    other = ["--repository", where[1], "--state", str(scene.directory / "other")]
    done = run("collect", *other, "--dry-run", "--recipe-state", where[3])
    assert done.returncode == 0, done.stderr
