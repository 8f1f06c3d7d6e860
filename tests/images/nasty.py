"""The cases in which an image's root file system easily comes out wrong, each as a small stack of layers.

`ALL` has them by name: how layers merge from `nasty_merges`, entries and whole stacks from `nasty_entries`.
"""

from typing import Final

from tests.images import nasty_entries, nasty_merges
from tests.images.stack import Stack

ALL: Final[dict[str, Stack]] = {**nasty_merges.MERGES, **nasty_entries.ENTRIES}

SHARED_LAYERS: Final = (ALL["shared_layers_one_way"], ALL["shared_layers_other_way"])
"""Two images that hold the same layers under different parents; serve both from one repository."""
EQUAL_TO_PULL: Final[dict[str, Stack]] = {name: stack for name, stack in ALL.items() if stack.pull == "same"}
"""The stacks of which containerd's overlayfs makes exactly what the image specification says."""
