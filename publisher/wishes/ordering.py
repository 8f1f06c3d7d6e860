"""A name and what it means now -> the orders that publish it, one a platform."""

from collections.abc import Iterator, Sequence

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import NotFound
from cvmfsrepo.oci import Platform, Reference, parse_config
from publisher.publishing.form import Order
from publisher.wishes.expand import Registry


def walk_orders(
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


def platform_text(platform: Platform) -> str:
    return "/".join(part for part in (platform.os, platform.architecture, platform.variant) if part)


def _check_platform(reference: Reference, config: bytes, platforms: Sequence[Platform]) -> None:
    found = parse_config(config)
    if found.architecture and (found.os, found.architecture) not in [(p.os, p.architecture) for p in platforms]:
        problem = f"is for {found.os}/{found.architecture} only"
        raise NotFound("image", str(reference), problem, f"wanted is {', '.join(map(platform_text, platforms))}")
