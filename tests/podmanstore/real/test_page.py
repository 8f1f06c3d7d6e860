"""docs/podman.md, as a new administrator and a new user would type it: every block, on each version."""

import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.engines.podman import Bind, Podman, running_podman
from tests.podmanstore.real.conftest import need_users
from tests.podmanstore.real.world import World, command

PAGE = Path(__file__).resolve().parents[3] / "docs/podman.md"
REPOSITORY, STORE = "/cvmfs/unpacked.example.org", "/var/lib/cvmfs-podmanstore"
OURS = "cvmfs-podmanstore"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Page:
    """`files` by the comment in their first line; `commands` in the page's order."""

    files: Mapping[str, str]
    commands: tuple[str, ...]

    @classmethod
    def read(cls) -> "Page":
        blocks = _BLOCK.findall(PAGE.read_text())
        assert {kind for kind, _ in blocks} == {"sh", "toml"}
        files = {text.splitlines()[0].removeprefix("# "): text for kind, text in blocks if kind == "toml"}
        lines = [line for kind, text in blocks if kind == "sh" for line in text.splitlines()]
        return cls(files, tuple(lines))

    def file(self, version: str, rootless: bool) -> tuple[str, str]:
        """Path and text of the storage.conf for a podman."""
        path = "/etc/containers/storage.conf" if not rootless else "~/.config/containers/storage.conf"
        ((named, text),) = (
            (name, text) for name, text in self.files.items()
            if name.startswith(path) and (rootless or version in name)
        )  # fmt: skip
        return named.split()[0], text


@pytest.fixture(scope="module")
def page() -> Page:
    return Page.read()


@pytest.fixture(scope="module")
def store(world: World, page: Page) -> Path:
    """The store that the page's first command makes. The links lead where the page's do: there a podman finds the
    repository."""
    directory = world.directory / "page"
    run_ours(page.commands[0], world, directory, "--links-to", REPOSITORY)
    return directory


def run_ours(line: str, world: World, store: Path, *more: str) -> str:
    """A line of the page with our command, on the test's repository and at the test's place for the store."""
    program, *words = shlex.split(line)
    assert program == OURS
    words = [str(store) + word.removeprefix(STORE) if word.startswith(STORE) else word for word in words]
    if REPOSITORY in words:
        words[words.index(REPOSITORY)] = str(world.mounts["ours"])
    if "--store" not in words:
        words += ["--store", str(store)]
    return command(*words, *more)


@contextmanager
def configured(
    world: World, store: Path, version: str, rootless: bool, directory: Path, page: Page
) -> Iterator[Podman]:
    """A podman with the page's storage.conf and no other, and the store and the repository where the page has them."""
    binds = [Bind(world.mounts["ours"], Path(REPOSITORY), read_only=True), Bind(store, Path(STORE), read_only=True)]
    with running_podman(version, directory, binds=binds, rootless=rootless) as podman:
        for path in ("/etc/containers/storage.conf", "/home/someone/.config/containers/storage.conf"):
            podman.inside(path).unlink(missing_ok=True)
        place, text = page.file(version, rootless)
        target = podman.inside(place.replace("~", "/home/someone"))
        target.write_text(text)
        target.chmod(0o644)
        yield podman


@pytest.mark.parametrize("rootless", [False, True], ids=["root", "user"])
def test_what_the_page_says_to_podman_works(
    version: str, rootless: bool, world: World, store: Path, page: Page, tmp_path: Path
) -> None:
    """With the page's storage.conf alone, every command of the page that is not ours ends well, in the page's order.
    What the page says does not work on podman 4 with fuse-overlayfs does not."""
    if rootless:
        need_users()
    with configured(world, store, version, rootless, tmp_path / "podman", page) as podman:
        for line in page.commands:
            if line.startswith(OURS) or (rootless and line.startswith("CONTAINERS_STORAGE_CONF")):
                continue
            failing = rootless and version == "4.3" and "localhost/mine:1" in line
            done = podman.exec("sh", "-c", line, check=False)
            assert (done.returncode != 0) == failing, f"{line}: {done.stderr}"
            assert "it runs" not in line or done.stdout == "it runs\n"


def test_what_the_page_says_of_our_command_works(world: World, page: Page, tmp_path: Path) -> None:
    """Every line of it, in the page's order, on one store."""
    store = tmp_path / "store"
    said = {line: run_ours(line, world, store) for line in page.commands if line.startswith(OURS)}
    assert "is a new store" in said[f"{OURS} build --repository {REPOSITORY}"]
    assert "0 errors" in said[f"{OURS} check"]
    assert len(said) == 7


def test_config_prints_the_page_s_lines(page: Page) -> None:
    """`cvmfs-podmanstore config`, for root and for users."""
    root, user = page.file("5.8", False)[1], page.file("5.8", True)[1]
    assert tomllib.loads(command("config")) == tomllib.loads(root)
    assert tomllib.loads(command("config", "--mount", "fuse-overlayfs")) == tomllib.loads(user)
    commented = command("config").replace("# graphroot", "graphroot").replace("# runroot", "runroot")
    assert tomllib.loads(commented) == tomllib.loads(page.file("4.3", False)[1])
