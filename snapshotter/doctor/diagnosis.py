"""All checks of a node, and the order in which a person wants to read them."""

from collections.abc import Callable, Iterator

from snapshotter.doctor import engine, labels, node, repositories
from snapshotter.doctor.values import Facts, Finding

CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    engine.version,
    engine.configuration,
    engine.proxy,
    engine.snapshotter,
    engine.runtimes,
    labels.labels,
    labels.unpacking,
    labels.exports_root,
    labels.capabilities,
    node.socket,
    node.order_of_start,
    node.kernel,
    node.whiteouts,
    node.state_filesystem,
    node.space,
    node.selinux,
    repositories.health,
    repositories.ownership,
    repositories.attributes,
    repositories.mount_options,
    repositories.propagation,
    repositories.cache,
)

_ORDER = ("error", "warning", "ok")


def diagnose(facts: Facts) -> tuple[Finding, ...]:
    """Errors first, then warnings, then what is well; in the order of the checks within each."""
    findings = [finding for check in CHECKS for finding in check(facts)]
    return tuple(sorted(findings, key=lambda finding: _ORDER.index(finding.severity)))
