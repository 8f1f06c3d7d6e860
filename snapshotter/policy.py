"""What happens when a layer is not served: a rule for each image, by its reference.

- *fallback*: the layer is downloaded as any other, and the miss is said.
- *require*: the Prepare is refused, and with it the pull; `allow-top = N` lets the N topmost layers be downloaded, for
  user images on published bases.
- *wait*: the layer is looked for again for so many seconds, then one of the other two. Only so many Prepares wait at
  one time, for each has a thread; one more is answered as if its time were over.
"""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from cvmfsrepo.errors import FailedPrecondition
from cvmfsrepo.repository import Missing
from snapshotter.labels import Wanted

WAIT_STEP = 0.5
"""Seconds between two looks for a layer that is waited for."""

MOST_WAITING = 64
"""Prepares that wait at one time; far less than the server has threads."""


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    """One `[[policy]]` of the configuration. `images` are shell patterns of image references; `wait` is in seconds and
    goes with `miss = "wait"`, as does `then`."""

    images: tuple[str, ...]
    miss: Literal["fallback", "require", "wait"] = "fallback"
    allow_top: int = 0
    wait: float = 0.0
    then: Literal["fallback", "require"] = "fallback"


FALLBACK = Policy(images=())


@dataclass(frozen=True, slots=True)
class Policies:
    """The configured policies; the first that names an image counts."""

    ordered: Sequence[Policy] = ()

    def of_image(self, image: str) -> Policy:
        """The policy of an image; the default for a Prepare that does not name one."""
        matching = (policy for policy in self.ordered if any(fnmatch.fnmatchcase(image, p) for p in policy.images))
        return next(matching, FALLBACK) if image else FALLBACK


DEFAULT = Policies()


def seconds_to_wait(policy: Policy) -> float:
    return policy.wait if policy.miss == "wait" else 0.0


def check_allowed(policy: Policy, wanted: Wanted, missing: Missing) -> None:
    """Refuses a download that the policy does not allow."""
    final = policy.then if policy.miss == "wait" else policy.miss
    if final == "fallback" or 0 < wanted.layers_to_top <= policy.allow_top:
        return
    layer = wanted.layer or wanted.diff_id or f"of the target {wanted.target}"
    raise FailedPrecondition(
        "image", wanted.image, f"layer {layer} is not served ({missing.reason}: {missing.detail}) and the policy"
        f" is to require it",
        "publish the layer or wait for the repository, or change [[policy]] in the configuration",
    )  # fmt: skip
