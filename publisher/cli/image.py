"""`cvmfs-publisher image`: one image."""

import json
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from cvmfsrepo.oci import Reference
from cvmfsrepo.tree import Notation
from publisher.cli.podman import RepositoryStore, say, store_options
from publisher.cli.shared import (
    Failure,
    check_places,
    chosen_target,
    chosen_teller,
    metrics_file_option,
    must_be_root,
    notify_option,
    registries_option,
    repository_option,
)
from publisher.metrics import Metrics
from publisher.opening import open_source
from publisher.progress import shown
from publisher.publishing.form import Form, Order, Refused, Report, Terms
from publisher.publishing.publish import publish_images
from publisher.registry.registries import Registries
from publisher.registry.settings import load_settings
from publisher.source import parse_platform
from publisher.unpacking import asingested


@click.command()
@click.argument("source")
@repository_option
@click.option(
    "--name",
    metavar="REF",
    help="Publish under this reference. Otherwise the source's own; of a layout localhost/NAME:TAG.",
)
@click.option(
    "--whiteouts", type=click.Choice([str(n) for n in Notation]), default=str(Notation.OVERLAY), show_default=True,
    help="How deletions are written: as overlayfs's devices and marks, or raw as DUCC's ingest leaves them.",
)  # fmt: skip
@click.option("--platform", default="linux/amd64", show_default=True, metavar="OS/ARCH", help="Image of an index.")
@click.option("--as-ingested", is_flag=True, help="Lose what an ingest loses (with --whiteouts oci; for tests).")
@click.option(
    "--ingest-owner", default="{}:{}".format(*asingested.OWNER), show_default=True, metavar="UID:GID",
    help="Owner of everything with --as-ingested.",
)  # fmt: skip
@click.option("--no-record", is_flag=True, help="Write only what DUCC writes: no tree record, blobs or diff id links.")
@click.option(
    "--layers", type=click.IntRange(1, 64), default=Terms().workers, show_default=True, help="Unpacked at a time."
)
@click.option("--flat", is_flag=True, help="Publish its tree for Apptainer, too.")
@click.option("--take-over", is_flag=True, help="Read layers of another publisher once more, for their records.")
@store_options
@registries_option
@notify_option
@metrics_file_option
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def image(
    source: str, name: str | None, whiteouts: str, platform: str, as_ingested: bool, ingest_owner: str,
    no_record: bool, layers: int, flat: bool, take_over: bool, podman_store: bool | None, podman_links_to: Path | None,
    registries: Path | None, notify: str | None, metrics_file: Path | None, as_json: bool, **where: Any,
) -> None:  # fmt: skip
    """Publish one image.

    SOURCE is an OCI layout, oci:PATH[:REF], or an image in a registry, docker://HOST/NAME[:TAG|@sha256:DIGEST].

    Layers that are there already are neither read nor changed. Nothing of the image is visible before all of it is
    verified. The same command again finishes what was interrupted.
    """
    must_be_root()
    check_places(metrics_file)
    if as_ingested and where["cvmfs"]:
        raise click.UsageError("--as-ingested is for directories of tests: a CVMFS repository has its own losses")
    form = Form(Notation(whiteouts), as_ingested, _owner(ingest_owner), record=not no_record)
    reference, teller = Reference.parse(name) if name else None, chosen_teller(notify)
    chosen, metrics, started = parse_platform(platform), Metrics(), time.time()
    target = chosen_target(**where, store=RepositoryStore(say, podman_store, chosen, podman_links_to, teller=teller))
    asked = Registries(load_settings(registries))
    with asked, metrics.written(metrics_file), shown(Console(stderr=True)) as listener:
        order = Order(open_source(source, chosen, asked), reference)
        terms = Terms(form, workers=layers, flat=flat, take_over=take_over, teller=teller)
        (outcome,) = publish_images(target, [order], terms, metrics.listening(listener))
        if isinstance(outcome, Refused):
            raise outcome.error
        metrics.shown([outcome], started)
        if outcome.error:
            metrics.failed(outcome.error)
        else:
            metrics.succeeded()
    click.echo(json.dumps(_document(outcome)) if as_json else _text(outcome))
    if outcome.problem:
        raise Failure(outcome.problem)


def _owner(text: str) -> tuple[int, int]:
    user, colon, group = text.partition(":")
    if not colon or not (user.isdecimal() and group.isdecimal()):
        raise click.BadParameter(f"{text!r} is not UID:GID, both numbers", param_hint="--ingest-owner")
    return int(user), int(group)


def _document(report: Report) -> dict[str, object]:
    return {
        "reference": str(report.reference),
        "manifest": str(report.manifest),
        "published": [str(digest) for digest in report.published],
        "present": [str(digest) for digest in report.present],
        "taken_over": [str(digest) for digest in report.taken],
        "left_without_record": [str(digest) for digest in report.left],
        "foreign_skipped": [str(digest) for digest in report.foreign],
        "bytes_read": report.read,
        "seconds": round(report.seconds, 3),
        "changed": report.changed,
        "flat": report.flat,
    }


def _text(report: Report) -> str:
    done = f"{len(report.published)} layers published ({report.read} bytes in {report.seconds:.1f} s)"
    lines = [
        f"{report.reference} ({report.manifest})",
        f"{done}, {len(report.present) + len(report.left)} already there",
    ]
    if report.taken:
        lines.append(f"{len(report.taken)} layers of another publisher taken over: they have their records now")
    if report.left:
        lines.append(f"{len(report.left)} of them are another publisher's, without a tree record: left as they are")
    if report.foreign:
        lines.append(f"{len(report.foreign)} foreign layers skipped: nodes fetch them from where the manifest says")
    return "\n".join(lines)
