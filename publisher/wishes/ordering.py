"""Names and what they mean now -> their publication, in one transaction, one order a platform."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError, NotFound
from cvmfsrepo.oci import Platform, Reference, parse_config
from publisher.progress import Listener
from publisher.publishing.form import Order, Refused, Report, Terms
from publisher.publishing.publish import publish_images
from publisher.transactions.contract import Target
from publisher.wishes.expand import Registry


@dataclass(frozen=True, slots=True)
class NotShown:
    """The repository could not be published to, because another publisher has it, say: no image is to blame."""

    error: ContractError


Made = tuple[tuple[Platform, Report], ...] | ContractError | NotShown
"""The report of each platform of an image, or why one of them could not be published."""


def publish_together(
    target: Target, registry: Registry, group: Mapping[Reference, Digest], platforms: Sequence[Platform],
    terms: Terms, listener: Listener | None = None,
) -> dict[Reference, Made]:  # fmt: skip
    """Publishes images in one publication, whatever their registry says of others; an error of the repository leaves
    all of them as they were."""
    made, orders = dict[Reference, Made](), dict[Reference, list[tuple[Platform, Order]]]()
    for reference, digest in group.items():
        try:
            orders[reference] = list(_walk_orders(registry, reference, digest, platforms))
        except ContractError as error:
            made[reference] = error
    flat = [order for some in orders.values() for _, order in some]
    try:
        results = iter(publish_images(target, flat, terms, listener) if flat else ())
    except ContractError as error:
        return made | dict.fromkeys(orders, NotShown(error))
    for reference, some in orders.items():
        made[reference] = _whole([(platform, next(results)) for platform, _ in some])
    return made


def platform_text(platform: Platform) -> str:
    return "/".join(part for part in (platform.os, platform.architecture, platform.variant) if part)


def _walk_orders(
    registry: Registry, reference: Reference, digest: Digest, platforms: Sequence[Platform]
) -> Iterator[tuple[Platform, Order]]:
    """By the digest that was found, so that a tag that moves meanwhile changes nothing. Platforms after the first are
    named by their manifest's digest: no tag of the registry can be mistaken for them. NotFound where the image is for
    none of the platforms; errors of the registry are passed on."""
    exact = Reference(reference.registry, reference.repository, None, digest)
    for number, platform in enumerate(platforms):
        source = registry.open(exact, platform)
        if not source.indexes:
            _check_platform(reference, source.config, platforms)
        manifest = Digest.of(source.manifest)
        name = Reference(reference.registry, reference.repository, None, manifest) if number else reference
        yield platform, Order(source, name)
        if not source.indexes:
            return


def _whole(results: Sequence[tuple[Platform, Report | Refused]]) -> Made:
    refused = next((result.error for _, result in results if isinstance(result, Refused)), None)
    return refused or tuple((platform, one) for platform, one in results if isinstance(one, Report))


def _check_platform(reference: Reference, config: bytes, platforms: Sequence[Platform]) -> None:
    found = parse_config(config)
    if found.architecture and (found.os, found.architecture) not in [(p.os, p.architecture) for p in platforms]:
        problem = f"is for {found.os}/{found.architecture} only"
        raise NotFound("image", str(reference), problem, f"wanted is {', '.join(map(platform_text, platforms))}")
