"""The command `cvmfs-podmanstore`."""

import dataclasses
import json
import logging
import platform as machine
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError, Unavailable
from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Descriptor, Platform, Reference
from cvmfsrepo.repository import Repository
from podmanstore import gather
from podmanstore.build import Built, Request, build, build_and_prune
from podmanstore.configs import Fetched
from podmanstore.names import podman_reference
from podmanstore.places import Place
from podmanstore.sync import sync
from podmanstore.values import Mount
from publisher.registry.settings import DEFAULT as SETTINGS
from publisher.registry.settings import load_settings
from publisher.source import parse_platform, read_document

if TYPE_CHECKING:  # what only some commands need is imported by those: a timer builds every other minute
    from podmanstore.check import Checked

STORE = Path("/var/lib/cvmfs-podmanstore")

INCOMPLETE = 3
"""Exit status: done, but there are images that the store leaves out, or defects that a check found."""

UNANSWERED = 4
"""Exit status: a repository does not answer; nothing was changed, and the same command may work later."""

_STATUSES = f"""\b
Exit status:
  0  done, and every image is served; a check found no error
  1  an error; the store is as it was
  2  wrong usage
  {INCOMPLETE}  done, and images were left out, each with its reason on stderr; a check found errors
  {UNANSWERED}  a repository does not answer; the store is as it was, try again later"""

_ARCHITECTURES = {
    "x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386", "i386": "386", "loongarch64": "loong64",
}  # fmt: skip


def main() -> None:
    command(prog_name="cvmfs-podmanstore")


class _Failure(click.ClickException):
    """One line on stderr and an exit status."""

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"error: {' '.join(self.message.split())}", err=True, file=file)


class _NoAnswer(_Failure):
    """The same for a repository that is away."""

    exit_code = UNANSWERED


class _Group(click.Group):
    """Turns the project's errors into the message and status of a command."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ContractError as error:
            raise (_NoAnswer if isinstance(error, Unavailable) else _Failure)(str(error)) from error
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise _Failure(f"{where}{error.strerror or error}") from error


def _show_version(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version("cvmfs-snapshotter")
    except PackageNotFoundError:
        number = "unknown (not installed)"
    click.echo(f"cvmfs-podmanstore, version {number}")
    context.exit()


@click.group(cls=_Group, epilog=_STATUSES)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version,
    help="Show the version and exit.",
)  # fmt: skip
def command() -> None:
    """Makes the read-only image store that podman and CRI-O run an unpacked CVMFS repository's images from.

    An administrator runs `build`, puts the lines that `config` prints into storage.conf, and lets `sync` or the timer
    keep the store up to date.
    """


_Command = TypeVar("_Command", bound=Callable[..., Any])

_store = click.option(
    "--store", default=STORE, show_default=True, type=click.Path(path_type=Path, file_okay=False),
    help="The store's directory, on a local disk: where it is missing, every podman command fails.",
)  # fmt: skip
_as_json = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")


def _built_from(function: _Command) -> _Command:
    """The options of a command that builds."""
    directory = click.Path(path_type=Path, file_okay=False)
    options = [
        click.option(
            "--repository", "repositories", required=True, multiple=True, type=directory,
            help="A repository's root directory. A layer that several hold is the first one's.",
        ),
        _store,
        click.option("--image", "images", multiple=True, metavar="REF", help="Only this image. May be repeated."),
        click.option(
            "--layers-only", is_flag=True, help="List layers and no images: pulls take the layers from the repository."
        ),
        click.option(
            "--mount", type=click.Choice([str(mount) for mount in Mount]), default=str(Mount.BOTH), show_default=True,
            help="By what containers are mounted. A few images can be shown right by one of the two only.",
        ),
        click.option(
            "--links-to", "links", multiple=True, type=directory,
            help="Where users see the repository, if elsewhere than it is read; one for each --repository.",
        ),
        click.option(
            "--fetch-configs", is_flag=True,
            help="Read configs and manifests that the repository lacks from the registry in the image's name.",
        ),
        click.option(
            "--registries", type=click.Path(path_type=Path), metavar="FILE",
            help=f"How --fetch-configs asks registries, as the publisher. [default: {SETTINGS}, if it is there]",
        ),
        click.option("--platform", metavar="OS/ARCH", help="Images for this platform. [default: this machine's]"),
    ]  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


@command.command("build", epilog=_STATUSES)
@_built_from
@click.option("--mend", is_flag=True, help="Trust nothing of the store: look at all of it, and mend what is damaged.")
@_as_json
def build_command(as_json: bool, mend: bool, **given: Any) -> None:
    """Make the store, or bring it up to date.

    The store is a function of the repositories: the same ones give the same bytes, and where nothing changed nothing
    is written. Layers stay in it when their images are gone, for users' own images may stand on them: see `prune`.
    """
    request = dataclasses.replace(_request(**given), mend=mend)
    with _progress() as progress:
        built = build(request, progress)
    click.echo(json.dumps(_document(built)) if as_json else _text(built))
    for out in built.left_out:
        click.echo(f"left out: {out.name}: {out.reason}", err=True)
    if built.is_new:
        click.echo(f"{built.store} is a new store: add it to storage.conf as `config` prints it, and keep it there: "
                   "while storage.conf names it and it is missing, every podman command fails", err=True)  # fmt: skip
    if built.left_out:
        raise click.exceptions.Exit(INCOMPLETE)


@command.command("check", epilog=_STATUSES)
@_store
@_as_json
def check_command(store: Path, as_json: bool) -> None:
    """Read a store as podman does, and say what is wrong with it.

    It need not be one that this command made.
    """
    from podmanstore.check import examine_store

    checked = examine_store(store)
    if as_json:
        click.echo(json.dumps(_checked_document(store, checked)))
    else:
        click.echo("\n".join([*map(str, checked.defects), _checked_text(store, checked)]))
    if checked.errors:
        raise click.exceptions.Exit(INCOMPLETE)


@command.command("prune", epilog=_STATUSES)
@_built_from
@click.option("--yes", is_flag=True, help="Remove them. Without it the command only says what it would break.")
def prune_command(yes: bool, **given: Any) -> None:
    """Take layers out of the store that no image of the repositories needs any more.

    Give the options that the store is built with: it is built first. Images and containers of users that stand on a
    layer that leaves stop working, and nobody can know whether there are any.
    """
    request = _request(**given)
    with _progress() as progress:
        _, pruned = build_and_prune(request, dry_run=not yes, progress=progress)
    click.echo(f"{request.store}: {'removed' if yes else 'to be removed with --yes'}: {pruned}")


@command.command("config")
@_store
@click.option(
    "--mount", type=click.Choice([str(Mount.KERNEL), str(Mount.FUSE)]), default=str(Mount.KERNEL), show_default=True,
    help="By what containers are mounted.",
)  # fmt: skip
def config_command(store: Path, mount: str) -> None:
    """Print the lines for /etc/containers/storage.conf.

    A user with a storage.conf of their own needs them in that.
    """
    click.echo(storage_conf(store, Mount(mount)), nl=False)


_BEFORE_5_8 = (
    "# podman before 5.8 needs these two in a file of root's. No file that users read may have them.",
    '# graphroot = "/var/lib/containers/storage"',
    '# runroot = "/run/containers/storage"',
)


def storage_conf(store: Path, mount: Mount = Mount.KERNEL) -> str:
    """The lines by which podman and CRI-O find a store."""
    lines = ["[storage]", 'driver = "overlay"', *_BEFORE_5_8, "", "[storage.options]"]
    lines += [f"additionalimagestores = [{json.dumps(str(store))}]"]
    if mount is Mount.FUSE:
        lines += ["", "[storage.options.overlay]", 'mount_program = "/usr/bin/fuse-overlayfs"']
        lines += ["# All files as the user's own; not for root.", 'mountopt = "nodev,squash_to_root"']
    return "\n".join([*lines, ""])


def _request(
    repositories: Sequence[Path], store: Path, images: Sequence[str], layers_only: bool, mount: str,
    links: Sequence[Path], fetch_configs: bool, platform: str | None, registries: Path | None,
) -> Request:  # fmt: skip
    """What is asked for, checked."""
    if links and len(links) != len(repositories):
        raise click.UsageError(
            f"--links-to: {len(links)} given for {len(repositories)} repositories; give one for each"
        )
    chosen = parse_platform(platform) if platform else _own_platform()
    only = frozenset(podman_reference(Reference.parse(image)) for image in images) or None
    roots = [path.absolute() for path in repositories]
    seen = [path.absolute() for path in links] or roots
    return Request(
        places=tuple(Place(Repository(root.name, Layout(root)), at) for root, at in zip(roots, seen, strict=True)),
        store=store.absolute(),
        terms=gather.Terms(Mount(mount), chosen, only),
        layers_only=layers_only,
        fetch=_fetching(chosen, registries) if fetch_configs else None,
    )


def _own_platform() -> Platform:
    return Platform("linux", _ARCHITECTURES.get(machine.machine(), machine.machine()))


def _fetching(platform: Platform, settings: Path | None) -> Callable[[Reference, Descriptor], Fetched]:
    """Reads an image's documents from its registry, whatever the tag means there by now."""
    from publisher.registry.registries import Registries

    registries = Registries(load_settings(settings))

    def fetch(reference: Reference, config: Descriptor) -> Fetched:
        source = registries.open(podman_reference(reference), platform)
        content = source.config
        if Digest.of(content) != config.digest:
            content = read_document(source.blobs, config, "image config")
        return Fetched(content, source.manifest, source.indexes)

    return fetch


@command.command("sync")
@_built_from
@click.option(
    "--interval", default=60.0, show_default=True, metavar="SECONDS", type=click.FloatRange(min=1, max=86400),
    help="Between two looks at a repository's revision.",
)  # fmt: skip
def sync_command(interval: float, **given: Any) -> None:
    """Build whenever a repository has a new revision, until SIGTERM or SIGINT.

    SIGHUP looks at once. A repository that does not answer is waited for, longer each time; what goes wrong is logged
    on stderr.
    """
    request, hurry = _request(**given), threading.Event()
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
    signal.signal(signal.SIGHUP, lambda *_: hurry.set())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        sync(request, interval, hurry)
    except _Stopped:
        return


class _Stopped(Exception):
    """Somebody wants the command to end; a build that is at work is left as a crash would leave it: whole."""


def _stop(*_: object) -> NoReturn:
    raise _Stopped


@contextmanager
def _progress() -> Iterator[gather.Progress]:
    """A line for each thing that takes long; silence where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield gather.silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        tasks = dict[str, TaskID]()

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = shown.add_task(what)
            shown.update(tasks[what], completed=done, total=total or None)

        yield tell


def _text(built: Built) -> str:
    held = f"{built.images} images, {built.layers} layers"
    left = f", {len(built.left_out)} left out" if built.left_out else ""
    return f"{built.store}: {built.changes} ({held}{left}, {built.seconds:.1f} s)"


def _document(built: Built) -> dict[str, object]:
    return {
        "store": str(built.store),
        "changed": bool(built.changes),
        "changes": dataclasses.asdict(built.changes),
        "new": built.is_new,
        "images": built.images,
        "layers": built.layers,
        "left_out": [{"name": out.name, "reason": out.reason} for out in built.left_out],
        "revisions": list(built.revisions),
        "seconds": round(built.seconds, 3),
    }


def _checked_text(store: Path, checked: "Checked") -> str:
    held = f"{checked.images} images ({checked.podman4_images} for podman 4 too), {checked.layers} layers"
    return f"{store}: {checked.errors} errors, {len(checked.defects) - checked.errors} warnings; {held}"


def _checked_document(store: Path, checked: "Checked") -> dict[str, object]:
    return {
        "store": str(store),
        "errors": checked.errors,
        "images": checked.images,
        "podman4_images": checked.podman4_images,
        "layers": checked.layers,
        "defects": [{**dataclasses.asdict(defect), "text": str(defect)} for defect in checked.defects],
    }


if __name__ == "__main__":
    main()
