"""The repository's own store for podman, which `podmanstore` makes as the last part of each publication."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import click

from cvmfsrepo.errors import FailedPrecondition
from cvmfsrepo.layout import CATALOG_MARKER, Layout
from cvmfsrepo.oci import Platform
from cvmfsrepo.repository import Repository
from podmanstore.build import Built, Request, build, build_and_prune
from podmanstore.gather import Terms
from podmanstore.places import Place
from podmanstore.records import IMAGES_JSON, LAYERS_JSON, OURS
from podmanstore.state import STATE, find_state
from podmanstore.values import Mount
from publisher.telling.events import Action, Event
from publisher.telling.teller import NOBODY, Teller

AMD64 = Platform("linux", "amd64")

_BEGINNING = 4096
"""Bytes of an index that show whose it is."""


@dataclass(frozen=True, slots=True)
class RepositoryStore:
    """`podmanStore` of a repository. Where it is not `asked` for, one of ours that is there is kept up to date, and
    somebody else's is left alone. A new one is for `platform`, with links that lead to the root `links_to` (None: where
    the repository is published from); one that is there stays as it is in both. `memory` is the directory for what a
    build remembers (None: in the store); `prune` takes out the layers that no image has any more. `say` is told what
    was done and what was left out."""

    say: Callable[[str], None]
    asked: bool | None = None
    platform: Platform = AMD64
    links_to: Path | None = None
    memory: Path | None = None
    prune: bool = False
    teller: Teller = NOBODY

    def is_due(self, layout: Layout) -> bool:
        """Also where a run was killed while it made the first one, whose index of images comes last."""
        store = layout.podman_store
        return bool(self.asked) and not (_is_ours(store) and (store / IMAGES_JSON).exists())

    def make(self, layout: Layout, is_changing: bool) -> bool:
        """FailedPrecondition where it is asked for and the repository has somebody else's."""
        if self.asked is False or not (self.asked or _is_ours(layout.podman_store)):
            return False
        started = time.monotonic()
        self.teller.tell(start := Event(action=Action.START_PODMAN))
        built, pruned = self._built(layout, is_changing)
        if is_changing:
            (layout.podman_store / CATALOG_MARKER).touch()
        elapsed = time.monotonic() - started
        self.teller.tell(Event(action=Action.END_PODMAN, id=start.id, elapsed=elapsed, status="ok"))
        for out in built.left_out:
            self.say(f"podman store: left out: {out.name}: {out.reason}")
        if built.changes:
            self.say(f"podman store: {built.changes}")
        return bool(built.changes or pruned)

    def _built(self, layout: Layout, is_changing: bool) -> tuple[Built, bool]:
        """What was built, and whether anything was taken out."""
        layout = Layout(layout.root.absolute())
        memory = self.memory / "podman-store.state" if self.memory else None
        before = _as_before(memory or layout.podman_store / STATE, layout.podman_store)
        links_to, platform = before or (layout.root, self.platform)
        place = Place(Repository(layout.root.name, layout), self.links_to or links_to, is_changing=is_changing)
        request = Request((place,), layout.podman_store, Terms(Mount.BOTH, platform), memory=memory)
        if not self.prune:
            return build(request), False
        built, pruned = build_and_prune(request, dry_run=False)
        return built, bool(pruned.layers or pruned.directories)


_Command = TypeVar("_Command", bound=Callable[..., Any])
_OPTIONS = (
    click.option(
        "--podman-store/--no-podman-store", default=None,
        help="Keep a store for podman in the repository. [default: where there is one already]",
    ),
    click.option(
        "--podman-links-to", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
        help="Where users of that store see the repository, if elsewhere than it is published from.",
    ),
)  # fmt: skip


def store_options(command: _Command) -> _Command:
    """The options of a store. The command takes them as `podman_store` and `podman_links_to`."""
    return reduce(lambda decorated, option: option(decorated), reversed(_OPTIONS), command)


def say(message: str) -> None:
    """On stderr, where warnings are."""
    click.echo(message, err=True)


def _is_ours(store: Path) -> bool:
    try:
        with open(store / LAYERS_JSON, "rb") as index:
            return OURS.encode() in index.read(_BEGINNING)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _as_before(memory: Path, store: Path) -> tuple[Path, Platform] | None:
    """Where the links of the last build lead and what it is for: users' own images stand on both. FailedPrecondition
    where it was of several repositories, as `cvmfs-podmanstore build` may have been."""
    if (state := find_state(memory)) is None:
        return None
    request = json.loads(state.request)
    if len(request["repositories"]) != 1:
        remedy = "move it away, or give --no-podman-store"
        raise FailedPrecondition("store", str(store), "was built of several repositories", remedy)
    ((_, links_to),) = request["repositories"]
    return Path(links_to), Platform(*request["platform"])
