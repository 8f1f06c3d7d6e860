"""`cvmfs-publisher watch`: passes over a recipe, for ever."""

from pathlib import Path
from typing import Any

import click

from publisher.cli.shared import chosen_target, must_be_root, notify_option, registries_option, repository_option
from publisher.cli.wishlist import read_recipe, terms_of, wished_registries
from publisher.registry.settings import load_settings
from publisher.wishes.recipe import Recipe, parse_recipe
from publisher.wishes.run import Outcome, Pass
from publisher.wishes.state import DEFAULT, StateDirectory
from publisher.wishes.watch import Watch


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@repository_option
@registries_option
@notify_option
@click.option("--state", default=DEFAULT, show_default=True, type=click.Path(path_type=Path), help="What is known.")
@click.option("--interval", type=click.FloatRange(1), default=600.0, show_default=True, help="Seconds between passes.")
@click.option("--wait", type=click.FloatRange(0), default=3600.0, show_default=True, help="For another publisher.")
def watch(
    recipe: Path, state: Path, registries: Path | None, notify: str | None, interval: float, wait: float, **where: Any
) -> None:
    """Keep a repository as a recipe wishes it.

    SIGHUP starts a pass at once; SIGTERM ends after the image that is being published.
    """
    must_be_root()
    load_settings(registries)  # a mistake in it ends the command now; one that is made later, a pass
    target = chosen_target(**where, otherwise=read_recipe(recipe).cvmfs_repo or None)

    def run(read: Recipe) -> tuple[Outcome, ...]:
        known, terms = StateDirectory.at(state), terms_of(read, wait, notify)
        with wished_registries(read, registries, known) as asked:
            return Pass(target, asked, known, terms, patient=True, stopped=loop.stop.is_set).run(read)

    loop = Watch(lambda: parse_recipe(recipe.read_bytes(), str(recipe)), run, click.echo, interval)
    with loop.signalled():
        loop.for_ever()
