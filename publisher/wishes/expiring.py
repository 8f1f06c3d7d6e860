"""What a recipe's `expire-days` means for a collection: a rule for each image that its passes published.

An image of such a recipe expires so many days after something new was pushed under its name, though the recipe still
wishes for it: that is what the recipe asks for. A push brings it back.
"""

import glob
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cvmfsrepo.oci import Reference
from publisher.collecting.expiry import Rule, name_of
from publisher.wishes.state import StateDirectory


@dataclass(frozen=True, slots=True)
class Expiring:
    """Rules for names, each of one name, and when what stands under them was last pushed, as far as passes saw it."""

    rules: tuple[Rule, ...] = ()
    pushed: Mapping[str, float] = field(default_factory=dict)


def read_expiring(states: Iterable[Path]) -> Expiring:
    """Of all these directories of recipes; one that is none says nothing. Nothing is written, and what does not parse
    is passed over: without a rule an image stays."""
    days, pushed = dict[str, int](), dict[str, float]()
    for root in states:
        state = StateDirectory(root, [], only_read=True)
        wanted = state.wanted()
        if wanted is None or not wanted.expire_days:
            continue
        for image in state.walk():
            for part in image.parts:
                name = name_of(Reference.parse(part.name))
                days[name] = max(days.get(name, 0), wanted.expire_days)
                pushed[name] = max(pushed.get(name, 0), image.published_at)
    return Expiring(tuple(Rule(glob.escape(name), number) for name, number in days.items()), pushed)
