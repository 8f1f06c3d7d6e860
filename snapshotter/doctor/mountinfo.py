"""/proc/self/mountinfo as values."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount; `options` are the mount's and its file system's together. `shared`: what is mounted below it later
    appears in other mount namespaces that follow it. `follows`: it is itself such a follower."""

    point: str
    type: str
    source: str
    options: frozenset[str]
    shared: bool = False
    follows: bool = False


def parse_mounts(text: str) -> list[Mount]:
    """In the order of the kernel: a later mount on the same point hides an earlier one."""
    return [_mount(line.split(" ")) for line in text.splitlines() if " - " in line]


def mount_of(path: str, mounts: Sequence[Mount]) -> Mount | None:
    """The mount that an absolute path, free of links, lies on."""
    below = [mount for mount in mounts if mount.point == "/" or path == mount.point or path.startswith(f"{mount.point}/")]  # noqa: E501  # fmt: skip
    return max(reversed(below), key=lambda mount: len(mount.point), default=None)


def _mount(fields: list[str]) -> Mount:
    dash = fields.index("-", 6)
    tags = fields[6:dash]
    type_, source, own = [*fields[dash + 1 :], "", "", ""][:3]
    return Mount(
        point=_ESCAPE.sub(lambda found: chr(int(found[1], 8)), fields[4]),
        type=type_,
        source=source,
        options=frozenset([*fields[5].split(","), *own.split(",")]),
        shared=any(tag.startswith("shared:") for tag in tags),
        follows=any(tag.startswith("master:") for tag in tags),
    )
