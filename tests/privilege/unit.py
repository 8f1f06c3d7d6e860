"""The systemd unit, read as a file: the one place that says what the daemon runs with."""

from collections import defaultdict
from pathlib import Path

UNIT = Path(__file__).resolve().parents[2] / "config/cvmfs-snapshotter.service"


def settings() -> dict[str, list[str]]:
    """The values of each key, of all sections, in their order."""
    found = defaultdict[str, list[str]](list)
    for line in UNIT.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found[key].append(value)
    return dict(found)


def capabilities() -> frozenset[str]:
    """The unit's, in capability(7)'s spelling without the prefix, in lower case."""
    (names,) = settings()["CapabilityBoundingSet"]
    return frozenset(name.removeprefix("CAP_").lower() for name in names.split())
