"""`image`: will it run without a download?"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import click

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError
from cvmfsrepo.reasons import Reason
from snapshotter.cli import exits
from snapshotter.cli.apart import apart
from snapshotter.cli.options import node_options, registries_option
from snapshotter.cli.output import Output, counted, short, size
from snapshotter.cli.resolving import From, Resolved, guarded_repositories, own_platform, resolve
from snapshotter.config import Config
from snapshotter.looks import AskedLayer, Chains, asked_layers, look_at
from snapshotter.policy import Policies
from snapshotter.readiness import EngineVerdict, LayerVerdict, Verdict, judge
from snapshotter.shimstore import ShimStore


@click.command()
@click.argument("reference", metavar="IMAGE")
@click.option(
    "--from",
    "origin",
    type=click.Choice(["auto", "registry", "repository"]),
    default="auto",
    show_default=True,
    help="Who says what the image is; auto: the registry, and if it does not, a repository.",
)
@click.option("--platform", help="OS/ARCH of an image for several.  [default: this machine's]")
@click.option("--engine-config", metavar="FILE", help="containerd's configuration, if not where it usually is.")
@click.option("--containerd-version", metavar="VERSION", help="Of that containerd, where its program is not here.")
@registries_option
@node_options
@apart
def image(
    config: Config, output: Output, reference: str, origin: str, platform: str | None, engine_config: str | None,
    containerd_version: str | None, registries: Path | None,
) -> None:  # fmt: skip
    """Will IMAGE run here without a download?

    IMAGE is a reference, as one gives it to the engine, or an OCI layout, oci:PATH[:REF]. Every layer is looked for as
    for a pull. A layer that is not served is downloaded, and so are all above it; where containerd is not configured
    to ask for layers, everything is. Layers that the node downloaded before are not counted as there.

    \b
    Exit status: 0 nothing would be downloaded; 3 something would; 1 it cannot be told.
    \b
    Example:
      cvmfs-snapshotter image registry.example.org/atlas/athena:25
    """
    repositories = guarded_repositories(config)
    found = resolve(reference, repositories, platform or own_platform(), cast(From, origin), registries=registries)
    layers = asked_layers([(layer.digest, layer.size) for layer in found.manifest.layers], found.diff_ids)
    kept = ShimStore(Path(config.root))
    looks = look_at(repositories, layers, kept, {})
    notes = [*found.notes, *_notes(found)]
    if layers[0].chain and not all(any(look.is_served for look in said) for _, said in looks):
        chains, problem = _indexed(config, layers)
        looks = look_at(repositories, layers, kept, chains) if chains else looks
        notes += [problem] if problem else []
    if os.geteuid() and any(look.reason == Reason.DENIED for _, said in looks for look in said):
        notes.append("some answers are those of this user: root may read more")
    policy = Policies(config.policy).of_image(str(found.reference or ""))
    refused = (policy.then if policy.miss == "wait" else policy.miss) == "require"
    verdict = judge(
        looks, image=found.name, origin=found.origin, platform=found.platform, refused=refused,
        notes=notes, engine=_engine(config, engine_config, containerd_version),
    )  # fmt: skip
    output.show(verdict, lambda: _print(output, verdict))
    if not verdict.ready:
        click.get_current_context().exit(exits.NO)


def _notes(found: Resolved) -> tuple[str, ...]:
    if found.diff_ids:
        return ()
    return ("diff ids are not known: layers that are published with another compression are not looked for",)


def _indexed(config: Config, layers: Sequence[AskedLayer]) -> tuple[Chains, str]:
    """What the node's index knows of these chains, by which a daemon finds layers of another compression; or why it
    cannot be asked."""
    from snapshotter.admin.asking import asked

    chains = {str(layer.chain): layer.chain for layer in layers if layer.chain}
    try:
        with asked(config) as node:
            known = list(node.walk_images(""))
    except ContractError as error:
        return {}, f"the node's index was not asked for layers of another compression: {error}"
    found = {
        (one.repository, chains[chain]): Digest.parse(layer)
        for one in known
        for chain, layer in zip(one.chains, one.layers, strict=False)
        if chain in chains
    }
    return found, ""


def _engine(config: Config, file: str | None, version: str | None) -> EngineVerdict:
    """What the doctor says of this node's containerd, as far as it decides whether layers are asked for."""
    from snapshotter.doctor import engine, labels
    from snapshotter.doctor.facts import Asked, engine_facts
    from snapshotter.doctor.values import Facts
    from snapshotter.engineconfig.versions import Version

    found = engine_facts(Asked(config=file or "", version=Version.parse(version) if version else None))
    if found.config is None or found.version is None:
        return EngineVerdict(f"not checked: {found.problem or 'no containerd was found here'}")
    checks = (engine.configuration, engine.proxy, engine.snapshotter, labels.labels, labels.unpacking)
    findings = [finding for check in checks for finding in check(Facts(config, engine=found))]
    faults = tuple(finding.what for finding in findings if finding.severity == "error")
    said = f"containerd {found.version}, {found.config_path}"
    return EngineVerdict(f"{said}: {'; '.join(faults) or 'asks for layers'}", faults)


def _print(output: Output, verdict: Verdict) -> None:
    output.line(f"{verdict.image}{f' ({verdict.platform})' if verdict.platform else ''}, as {verdict.origin} says")
    for note in verdict.notes:
        output.line(f"note: {note}")
    output.line()
    columns = (">#", "LAYER", ">SIZE", "PULL", "REPOSITORY", ">MARKERS", "WHY")
    output.table(columns, (row for layer in verdict.layers for row in _rows(layer, verdict.first_missing)))
    output.line()
    output.line(f"engine configuration: {verdict.engine.said}")
    output.line(_sentence(verdict))
    if verdict.best:
        best = verdict.best
        output.line(
            f"publish layer {best.number}, {best.digest}: that alone saves {size(best.bytes_saved)} of the download"
        )


def _rows(layer: LayerVerdict, first_missing: int | None) -> list[tuple[str, ...]]:
    """One line; for a layer that nobody serves one for each repository."""
    head = (str(layer.number), short(layer.digest), size(layer.size), "download" if layer.is_downloaded else "served")
    above = f"stands above layer {first_missing}" if layer.is_downloaded else ""
    for look in layer.looks:
        if look.repository == layer.served_by:
            other = f"as {look.served_as}" if look.served_as else ""
            markers = "-" if look.markers is None else str(look.markers)
            return [(*head, look.repository, markers, "; ".join(filter(None, (above, other))))]
    whys = [(look.repository, "-", f"{look.reason}: {look.detail}") for look in layer.looks]
    rows = [(*head, *why) for why in whys] or [(*head, "-", "-", "no repository is configured")]
    return [rows[0], *(("", "", "", "", *row[4:]) for row in rows[1:])]


def _sentence(verdict: Verdict) -> str:
    total, layers = size(verdict.total_bytes), counted(len(verdict.layers), "layer")
    if verdict.ready:
        return f"YES: nothing is downloaded of {layers}, {total}"
    if verdict.engine.faults:
        return f"NO: all of {total} would be downloaded, for containerd does not ask for layers; see `doctor`"
    number = sum(layer.is_downloaded for layer in verdict.layers)
    downloaded = f"layers from {verdict.first_missing} on, {size(verdict.download_bytes)} of {total}"
    if verdict.refused:
        return f"NO: the policy of this node refuses the pull, for it would download {downloaded}"
    return f"NO: {number} of {layers} would be downloaded: {downloaded}"
