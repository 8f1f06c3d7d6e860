"""`cvmfs-publisher wishlist`: one pass over a recipe."""

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from publisher.cli.podman import RepositoryStore, say, store_options
from publisher.cli.shared import (
    Failure,
    Finite,
    check_places,
    chosen_target,
    chosen_teller,
    metrics_file_option,
    must_be_root,
    notify_option,
    registries_option,
    repository_option,
    together_option,
)
from publisher.durable import write_durably
from publisher.metrics import Metrics
from publisher.progress import shown
from publisher.publishing.form import Terms
from publisher.registry.registries import Registries
from publisher.registry.settings import load_settings
from publisher.wishes.counted import CountedRegistry
from publisher.wishes.recipe import Recipe, RecipeError, parse_recipe
from publisher.wishes.run import Outcome, Pass
from publisher.wishes.state import DEFAULT, StateDirectory

wished_option = click.option(
    "--wished", type=click.Path(path_type=Path), help="Write the references that never expire here, one a line."
)


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@repository_option
@store_options
@registries_option
@notify_option
@metrics_file_option
@click.option("--state", default=DEFAULT, show_default=True, type=click.Path(path_type=Path), help="What is known.")
@click.option("--check", is_flag=True, help="Only read the recipe, and say what is wrong with it.")
@together_option
@click.option("--wait", type=Finite(0), default=0.0, help="Seconds to wait for another publisher.")
@wished_option
@click.option("--json", "as_json", is_flag=True, help="Print the outcomes as JSON.")
def wishlist(
    recipe: Path, state: Path, podman_store: bool | None, podman_links_to: Path | None, registries: Path | None,
    notify: str | None, check: bool, together: int, wait: float, wished: Path | None, metrics_file: Path | None,
    as_json: bool, **where: Any,
) -> None:  # fmt: skip
    """Publish what a recipe wishes for, once.

    RECIPE is DUCC's YAML, version 1. Images go to its cvmfs_repo, unless --repository or --cvmfs says otherwise. The
    status is 0 only if every image is complete.
    """
    read = read_recipe(recipe)
    if check:
        click.echo(f"{recipe}: {len(read.wishes)} wishes, nothing wrong")
        return
    must_be_root()
    check_places(wished, metrics_file)
    store = store_of(read, podman_store, podman_links_to, notify)
    target = chosen_target(**where, otherwise=read.cvmfs_repo or None, store=store)
    known, metrics = StateDirectory.at(state), Metrics()
    asking = wished_registries(read, registries, known)
    with metrics.written(metrics_file), asking as asked, shown(Console(stderr=True)) as listener:
        outcomes = Pass(
            target, CountedRegistry(asked, metrics.asked), known, terms_of(read, wait, notify), together,
            listener=metrics.listening(listener), observer=metrics,
        ).run(read)  # fmt: skip
        measure(metrics, outcomes)
    tell_damaged(known)
    write_wished(known, wished)
    click.echo(_document(outcomes) if as_json else _text(outcomes))
    if not all(outcome.is_complete for outcome in outcomes):
        raise SystemExit(1)


def read_recipe(path: Path) -> Recipe:
    """The recipe, with its notes on stderr; its problems one a line."""
    try:
        recipe = parse_recipe(path.read_bytes(), str(path))
    except RecipeError as error:
        for line in error.lines[:-1]:
            click.echo(f"error: {line}", err=True)
        raise Failure(error.lines[-1]) from error
    for note in recipe.notes:
        click.echo(note, err=True)
    return recipe


def wished_registries(recipe: Recipe, settings: Path | None, known: StateDirectory) -> Registries:
    """Those of one pass."""
    plain = {wish.registry for wish in recipe.wishes if wish.plain}
    return Registries(load_settings(settings), plain, known)


def terms_of(recipe: Recipe, wait: float, notify: str | None) -> Terms:
    """How a recipe wants its images: with flat trees, unless it says no."""
    return Terms(wait=wait, flat=recipe.options.flat is not False, teller=chosen_teller(notify))


def store_of(recipe: Recipe, asked: bool | None, links_to: Path | None, notify: str | None) -> RepositoryStore:
    """The store for podman that a recipe wants, unless the command line says otherwise; for its first platform."""
    wanted = recipe.options.podman_store if asked is None else asked
    return RepositoryStore(say, wanted, recipe.options.platforms[0], links_to, teller=chosen_teller(notify))


def write_wished(state: StateDirectory, file: Path | None) -> None:
    """What `collect --wished` may be told, whole and by rename."""
    if file and (wanted := state.wanted()):
        write_durably(file, "".join(f"{name}\n" for name in wanted.lasting).encode())


def tell_damaged(state: StateDirectory) -> None:
    """What a pass could not read of its state."""
    for path in state.damaged:
        click.echo(f"{path}: was damaged and is put aside", err=True)


def measure(metrics: Metrics, outcomes: tuple[Outcome, ...]) -> None:
    """What became of a pass."""
    metrics.passed(outcome.word for outcome in outcomes)
    if all(outcome.is_complete for outcome in outcomes):
        metrics.succeeded()


def _document(outcomes: tuple[Outcome, ...]) -> str:
    return json.dumps([{"image": one.name, "outcome": one.word, "reason": one.reason} for one in outcomes])


def _text(outcomes: tuple[Outcome, ...]) -> str:
    lines = [f"{one.word:<10} {one.name}" + (f"\n           {one.reason}" * bool(one.reason)) for one in outcomes]
    complete = sum(one.is_complete for one in outcomes)
    return "\n".join([*lines, f"{complete} of {len(outcomes)} complete"])
