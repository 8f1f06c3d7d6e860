"""`cvmfs-publisher verify`: the source of an image against the repository."""

import json
from pathlib import Path
from typing import Any

import click

from cvmfsrepo.oci import Reference
from publisher.cli.shared import chosen_target, must_be_root, registries_option, repository_option
from publisher.opening import open_source
from publisher.publishing.form import Order
from publisher.publishing.verify import Finding, verify
from publisher.registry.registries import Registries
from publisher.registry.settings import load_settings
from publisher.source import parse_platform


@click.command("verify")
@click.argument("source")
@repository_option
@click.option("--name", metavar="REF", help="The reference that it is published under, if not the source's own.")
@click.option("--platform", default="linux/amd64", show_default=True, metavar="OS/ARCH", help="Image of an index.")
@click.option("--temporary", type=click.Path(path_type=Path), help="Where a layer at a time is unpacked.")
@registries_option
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def verify_command(
    source: str, name: str | None, platform: str, temporary: Path | None, registries: Path | None, as_json: bool,
    **where: Any,
) -> None:  # fmt: skip
    """Compare a published image with its source, byte for byte.

    SOURCE is as for `image`. Each layer is read and unpacked once more, beside the repository, which is not changed.
    What CVMFS loses of every publication is told and is no fault. The status is 0 if there is no fault.
    """
    must_be_root()
    with Registries(load_settings(registries)) as asked:
        opened = open_source(source, parse_platform(platform), asked)
        order = Order(opened, Reference.parse(name) if name else None)
        findings = list(verify(order, chosen_target(**where).layout, temporary))
    faults = [finding for finding in findings if not finding.is_known]
    click.echo(_document(order, findings) if as_json else _text(order, findings))
    if faults:
        raise SystemExit(1)


def _document(order: Order, findings: list[Finding]) -> str:
    listed = [{"where": f.where, "problem": f.problem, "known": f.is_known} for f in findings]
    return json.dumps({"reference": str(order.reference), "findings": listed})


def _text(order: Order, findings: list[Finding]) -> str:
    faults = sum(not finding.is_known for finding in findings)
    lines = [f"{'known' if finding.is_known else 'FAULT'}  {finding}" for finding in findings]
    return "\n".join([*lines, f"{order.reference}: {faults} faults, {len(findings) - faults} known losses"])
