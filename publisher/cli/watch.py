"""`cvmfs-publisher watch`: passes over a recipe, for ever."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from cvmfsrepo.errors import InvalidArgument
from publisher.cli.podman import store_options
from publisher.cli.shared import (
    Finite,
    check_places,
    chosen_target,
    metrics_address_option,
    must_be_root,
    notify_option,
    registries_option,
    repository_option,
    served_metrics,
    together_option,
)
from publisher.cli.wishlist import (
    measure,
    read_recipe,
    store_of,
    tell_damaged,
    terms_of,
    wished_option,
    wished_registries,
    write_wished,
)
from publisher.metrics import Metrics
from publisher.progress import Silent
from publisher.registry.settings import load_settings
from publisher.transactions.contract import Target
from publisher.wishes.counted import CountedRegistry
from publisher.wishes.recipe import Recipe, parse_recipe
from publisher.wishes.run import Outcome, Pass
from publisher.wishes.state import DEFAULT, StateDirectory
from publisher.wishes.watch import Watch


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@repository_option
@store_options
@registries_option
@notify_option
@metrics_address_option
@wished_option
@click.option("--state", default=DEFAULT, show_default=True, type=click.Path(path_type=Path), help="What is known.")
@together_option
@click.option("--interval", type=Finite(1), default=600.0, show_default=True, help="Seconds between passes.")
@click.option("--wait", type=Finite(0), default=3600.0, show_default=True, help="For another publisher.")
def watch(
    recipe: Path, state: Path, podman_store: bool | None, podman_links_to: Path | None, registries: Path | None,
    notify: str | None, metrics_address: str, wished: Path | None, together: int, interval: float, wait: float,
    **where: Any,
) -> None:  # fmt: skip
    """Keep a repository as a recipe wishes it.

    SIGHUP starts a pass at once; SIGTERM ends after the publication that is being made.
    """
    must_be_root()
    check_places(wished)
    load_settings(registries)  # a mistake in it ends the command now; one that is made later, a pass
    metrics = Metrics()

    def target_of(read: Recipe) -> Target:
        store = store_of(read, podman_store, podman_links_to, notify)
        return chosen_target(**where, otherwise=read.cvmfs_repo or None, store=store)

    def read_again() -> Recipe:
        """ContractError for one of which no pass can be made."""
        read = parse_recipe(recipe.read_bytes(), str(recipe))
        try:
            target_of(read)
        except click.UsageError as error:
            raise InvalidArgument("recipe", str(recipe), "names no cvmfs_repo", error.message) from None
        return read

    def run(read: Recipe) -> tuple[Outcome, ...]:
        """A pass over the recipe as it is now. ContractError and OSError where it has to be given up."""
        known, terms = StateDirectory.at(state), replace(terms_of(read, wait, notify), stopped=loop.stop.is_set)
        with wished_registries(read, registries, known) as asked:
            outcomes = Pass(
                target_of(read), CountedRegistry(asked, metrics.asked), known, terms, together, patient=True,
                listener=metrics.listening(Silent()), observer=metrics,
            ).run(read)  # fmt: skip
        tell_damaged(known)
        measure(metrics, outcomes)
        write_wished(known, wished)
        return outcomes

    target_of(read_recipe(recipe))
    loop = Watch(read_again, run, click.echo, interval, metrics)
    with loop.signalled(), served_metrics(metrics_address, metrics) as place:
        if place:
            click.echo(f"metrics on http://{place}/metrics")
        loop.for_ever()
