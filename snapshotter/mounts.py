"""(lowers, upper, options) -> mounts. Pure, and the one place that builds and escapes option strings."""

from collections.abc import Sequence
from dataclasses import dataclass

from snapshotter.snapshots import Mount


@dataclass(frozen=True, slots=True)
class MountOptions:
    """Options that every overlay mount gets, in this order, before the directories."""

    fixed: tuple[str, ...] = ()


def active_mounts(lowers: Sequence[str], directory: str, options: MountOptions) -> tuple[Mount, ...]:
    """How to mount the active snapshot of `directory` on `lowers` (topmost first)."""
    if not lowers:
        return (_bind(f"{directory}/fs", "rw"),)
    writable = (f"workdir={escape(f'{directory}/work')}", f"upperdir={escape(f'{directory}/fs')}")
    return (_overlay((*options.fixed, *writable), lowers),)


def view_mounts(lowers: Sequence[str], directory: str, options: MountOptions) -> tuple[Mount, ...]:
    """How to mount a view. On nothing it is its own empty directory; overlayfs does not take a single lower without
    an upper, so that one is bound."""
    if len(lowers) <= 1:
        return (_bind(lowers[0] if lowers else f"{directory}/fs", "ro"),)
    return (_overlay(options.fixed, lowers),)


def escape(path: str) -> str:
    """A directory in an option string: overlayfs splits options at commas and lowers at colons, and takes a
    backslash as "the next character is meant"."""
    return path.replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:")


def _bind(source: str, access: str) -> Mount:
    return Mount("bind", source, (access, "rbind"))


def _overlay(options: Sequence[str], lowers: Sequence[str]) -> Mount:
    return Mount("overlay", "overlay", (*options, f"lowerdir={':'.join(escape(lower) for lower in lowers)}"))
