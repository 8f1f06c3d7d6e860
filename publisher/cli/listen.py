"""`cvmfs-publisher listen`: publishes what registries tell of."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from cvmfsrepo.errors import InvalidArgument
from cvmfsrepo.web import parse_address, served_pages
from publisher.cli.podman import RepositoryStore, say, store_options
from publisher.cli.shared import (
    Finite,
    chosen_target,
    chosen_teller,
    metrics_address_option,
    must_be_root,
    notify_option,
    registries_option,
    repository_option,
    served_metrics,
    together_option,
)
from publisher.listening.queue import DEFAULT, Queue
from publisher.listening.receiving import Receiver, check_door, read_secret
from publisher.listening.webhooks import Allowed, is_registry
from publisher.listening.worker import ImagePublisher, Worker
from publisher.metrics import Metrics
from publisher.progress import Silent
from publisher.publishing.form import Terms
from publisher.registry.registries import Registries
from publisher.registry.settings import load_settings
from publisher.registry.wire import is_loopback
from publisher.source import parse_platform
from publisher.wishes.counted import CountedRegistry

_PATH = click.Path(path_type=Path)
_PLACE = "/webhook"


@click.command()
@repository_option
@store_options
@registries_option
@notify_option
@metrics_address_option
@click.option(
    "--allow", "patterns", multiple=True, required=True, metavar="https://REGISTRY/NAME:TAG",
    help="Which images may be published, as in a wish list. May be repeated.",
)  # fmt: skip
@click.option("--address", default="127.0.0.1:9380", show_default=True, metavar="HOST:PORT", help="Where it listens.")
@click.option("--secret-file", type=_PATH, help="What the header Authorization has to hold.")
@click.option("--no-secret", is_flag=True, help="Believe everybody who reaches the address.")
@click.option("--registry", default="", metavar="HOST[:PORT]", help="The registry's name, whatever it says itself.")
@click.option("--queue", "queue_root", default=DEFAULT, show_default=True, type=_PATH, help="What waits, on disk.")
@click.option("--platform", "platforms", multiple=True, default=["linux/amd64"], show_default=True, metavar="OS/ARCH")
@click.option("--flat", is_flag=True, help="Publish trees for Apptainer, too.")
@together_option
@click.option("--wait", type=Finite(0), default=3600.0, show_default=True, help="For another publisher.")
@click.option("--once", is_flag=True, help="Publish what is due in the queue, and end: nothing is listened to.")
def listen(
    patterns: Sequence[str], address: str, secret_file: Path | None, no_secret: bool, registry: str, queue_root: Path,
    platforms: Sequence[str], flat: bool, together: int, wait: float, once: bool, registries: Path | None,
    notify: str | None, metrics_address: str, podman_store: bool | None, podman_links_to: Path | None, **where: Any,
) -> None:  # fmt: skip
    """Publish images when a registry tells that they were pushed.

    Takes webhooks of Harbor and notifications of the distribution registry, POSTed to /webhook. What was accepted is
    in the queue on disk until it is published. SIGTERM ends after the publication that is being made.
    """
    must_be_root()
    allowed, stop = Allowed.parse(patterns), threading.Event()
    secret = read_secret(secret_file) if secret_file else None
    if registry and not is_registry(registry):
        raise InvalidArgument(
            "registry", registry, "is no HOST[:PORT] with a dot or a port", "give it as in references"
        )
    parse_address(address, "address")
    check_door(address, is_loopback(address), secret, no_secret)
    metrics, teller, chosen = Metrics(), chosen_teller(notify), [parse_platform(text) for text in platforms]
    store = RepositoryStore(say, podman_store, chosen[0], podman_links_to, teller=teller)
    settings = load_settings(registries)

    @contextlib.contextmanager
    def asked() -> Iterator[CountedRegistry]:
        with Registries(settings, allowed.plain) as registry:
            yield CountedRegistry(registry, metrics.asked)

    terms = Terms(wait=wait, stopped=stop.is_set, flat=flat, teller=teller)
    publisher = ImagePublisher(chosen_target(**where, store=store), asked, chosen, terms, metrics.listening(Silent()))
    with Queue.opened(queue_root) as queue, _signalled(stop, queue.wake):
        for path in queue.damaged:
            click.echo(f"{path}: was damaged and is put aside", err=True)
        worker = Worker(queue, allowed, publisher.publish, _say, metrics, stop, together)
        if once:
            worker.work_off()
            if queue.jobs():
                raise SystemExit(1)
            return
        receiver, places = Receiver(queue, allowed, secret, registry, _say, metrics.answered), contextlib.ExitStack()
        metrics.watch_queue(queue.jobs)
        with places:
            if pages := places.enter_context(served_metrics(metrics_address, metrics)):
                _say(f"metrics on http://{pages}/metrics")
            place = places.enter_context(served_pages(address, {}, {_PLACE: receiver.receive}, "address"))
            _say(f"listening on http://{place}{_PLACE}")
            worker.for_ever()


def _say(line: str) -> None:
    click.echo(line)


@contextlib.contextmanager
def _signalled(stop: threading.Event, wake: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT end it after the image that is being published. A thread wakes the worker: the signal may
    come while this one holds the queue's lock."""

    def end(number: int, frame: object) -> None:
        stop.set()
        threading.Thread(target=wake, daemon=True).start()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)
