"""Which labels a node gets: what the repositories are like -> labels, and what has to change. Pure.

A label is `repository.cvmfs.cern.ch/<name> = healthy`, with a prefix of its own: an admission policy can then tell ours
from all others by their first characters, and the whole of 63 characters is left for the repository's name.
"""

import re
from collections.abc import Iterable, Mapping

PREFIX = "repository.cvmfs.cern.ch/"

UNKNOWN = "unknown"
"""Instead of a state: the daemon does not answer, so nothing is served, whatever the repository does."""

LONGEST = 63
"""Characters of a label's name and of its value, by the rules of Kubernetes."""

_PART = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")

Change = Mapping[str, str | None]
"""Labels to set, and with None those to remove."""


def labels(states: Mapping[str, str]) -> dict[str, str]:
    """Of repositories by name; those that no label can name are left out, see `unnameable`."""
    return {f"{PREFIX}{name}": state for name, state in states.items() if _fits(name)}


def unnameable(names: Iterable[str]) -> list[str]:
    """Names of repositories that are no names of labels: longer than 63 characters, or of other characters than
    letters, digits, dots, dashes and underscores, with a letter or digit at both ends."""
    return [name for name in names if not _fits(name)]


def ours(found: Mapping[str, str]) -> dict[str, str]:
    """Those of a node's labels that are kept by us."""
    return {key: value for key, value in found.items() if key.startswith(PREFIX)}


def change(found: Mapping[str, str], wanted: Mapping[str, str]) -> Change:
    """What makes our labels of a node the wanted ones, those of repositories that are configured no more included."""
    gone = dict.fromkeys(found.keys() - wanted.keys())
    return {**gone, **{key: value for key, value in wanted.items() if found.get(key) != value}}


def _fits(name: str) -> bool:
    return len(name) <= LONGEST and _PART.fullmatch(name) is not None
