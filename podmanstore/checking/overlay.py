"""The directories of `overlay/`, read as the overlay driver reads them, and the short links that lead to them.

podman 4 and 5.4 read `link` and `lower` (short links), podman 5.8 reads `lower-layers` (ids) and falls back to `lower`.
All three take the directory's name in a short link's text as the layer's id.
"""

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from podmanstore.checking.defects import Findings, Kind, named, said
from podmanstore.checking.files import link_text, listed, read_noting
from podmanstore.checking.indices import HEX_ID

_LINK = re.compile(r"[A-Za-z0-9_-]{1,255}", re.ASCII)
_LOWER = re.compile(r"l/([A-Za-z0-9_-]{1,255})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Entry:
    """A directory of `overlay/`: `link` its short name (empty where it has none), `lowers` the ids of what stands below
    it, topmost first, as far as they can be told. `target` is where its `diff` leads as an absolute path, empty where
    that is a directory of its own; `contents` then holds the names in it, each with whether it is a 0:0 device."""

    id: str
    link: str
    lowers: tuple[str, ...]
    target: str
    contents: Mapping[str, bool]

    @property
    def where(self) -> str:
        return named("layer", self.id)

    @property
    def content_key(self) -> object:
        """Equal for entries that show the same: one layer's directory, or (by their names) one shim."""
        return self.target or frozenset(self.contents)


@dataclass(frozen=True, slots=True)
class _Raw:
    """What stands in an entry's directory, before the lowers are looked up."""

    names: frozenset[str]
    link: str
    lower: bytes | None
    lower_layers: bytes | None


def read_entries(store: Path, findings: Findings) -> dict[str, Entry]:
    """Every directory that is named like a layer; a link in its place, which could lead anywhere, is none."""
    overlay = store / "overlay"
    names = listed(overlay, findings) or {}
    ids = sorted(name for name in names if HEX_ID.fullmatch(name) and not names[name].is_symlink())
    raws = {id_: raw for id_ in ids if (raw := _read_raw(overlay, id_, findings))}
    links = _read_links(overlay, raws, findings)
    entries = dict[str, Entry]()
    for id_, raw in raws.items():
        target, contents = _read_diff(overlay, id_, raw, findings)
        entries[id_] = Entry(id_, raw.link, _lowers(id_, raw, links, raws, findings), target, contents)
    return entries


def _read_raw(overlay: Path, id_: str, findings: Findings) -> _Raw | None:
    directory = f"{overlay}/{id_}"
    names = listed(directory, findings)
    if names is None:
        return None
    lower, layers = (_content(directory, name, names, findings) for name in ("lower", "lower-layers"))
    return _Raw(frozenset(names), _read_link(directory, id_, names, findings), lower, layers)


def _content(directory: str, name: str, names: Mapping[str, object], findings: Findings) -> bytes | None:
    return read_noting(f"{directory}/{name}", findings, follow=False) if name in names else None


def _read_link(directory: str, id_: str, names: Mapping[str, object], findings: Findings) -> str:
    content = _content(directory, "link", names, findings)
    if content is None:
        problem = "has no file `link`: no container and no layer can be made on it"
        findings.add(Kind.LINK_MISSING, named("layer", id_), problem)
        return ""
    text = content.decode(errors="replace")
    if not _LINK.fullmatch(text):
        problem = f"its `link` is {said(text)}: it must be one plain name, without a newline"
        findings.add(Kind.LINK_MALFORMED, named("layer", id_), problem)
        return ""
    return text


def _read_links(overlay: Path, raws: Mapping[str, _Raw], findings: Findings) -> dict[str, str]:
    """What the short links lead to by name, as podman reads them; each layer's own is compared with its `link`."""
    links = dict[str, str]()
    for name, entry in (listed(overlay / "l", findings) or {}).items():
        text = link_text(entry.path)
        id_ = os.path.basename(os.path.dirname(text))
        where = named("short link", f"l/{name}")
        if text != f"../{id_}/diff" or not HEX_ID.fullmatch(id_):
            problem = f"leads to {said(text)}, not to ../ID/diff" if text else "is no symbolic link"
            findings.add(
                Kind.SHORT_LINK_TARGET, where, f"{problem}: podman reads the id of a layer from it, and finds none"
            )
        elif id_ not in raws:
            findings.add(Kind.LINK_STRAY, where, f"leads to {id_[:12]}, which is not there")
        links[name] = id_
    owners = dict[str, str]()
    for id_, raw in raws.items():
        _check_link(id_, raw.link, links, owners, findings)
    return links


def _check_link(id_: str, link: str, links: Mapping[str, str], owners: dict[str, str], findings: Findings) -> None:
    where = named("layer", id_)
    if not link:
        return
    if (owner := owners.setdefault(link, id_)) != id_:
        problem = f"has the same short link {link!r} as {owner[:12]}: one is mounted in the other's place"
        findings.add(Kind.LINK_TWICE, where, problem)
    elif link not in links:
        problem = f"its short link l/{link} is missing: podman 4 and 5.4 cannot mount what stands on it"
        findings.add(Kind.SHORT_LINK_MISSING, where, problem)
    elif links[link] != id_ and HEX_ID.fullmatch(links[link]):
        problem = f"leads to {links[link][:12]}, but is the link of {id_[:12]}"
        findings.add(Kind.SHORT_LINK_TARGET, named("short link", f"l/{link}"), problem)


def _lowers(
    id_: str, raw: _Raw, links: Mapping[str, str], raws: Mapping[str, _Raw], findings: Findings
) -> tuple[str, ...]:
    """What stands below, by `lower` if there is one."""
    where = named("layer", id_)
    by_link = _by_link(where, raw.lower, links, findings)
    by_id = _by_id(where, raw.lower_layers, findings)
    if by_link is None and by_id:
        problem = "has `lower-layers` but no `lower`: podman before 5.8 mounts it without what stands below"
        findings.add(Kind.LOWER_MISSING, where, problem)
    if by_link is not None and by_id is not None and by_link != by_id:
        problem = "its `lower-layers` are not those of its `lower`: podman 5.8 mounts another tree than 4.3 and 5.4"
        findings.add(Kind.LOWER_LAYERS_DIFFER, where, problem)
    lowers = by_link or by_id or ()
    for lower in dict.fromkeys((*lowers, *(by_id or ()))):
        if lower not in raws:
            problem = f"stands on {said(lower[:12])}, which is not in overlay/: it cannot be mounted"
            findings.add(Kind.LOWER_DANGLING, where, problem)
    return lowers


def _by_link(where: str, content: bytes | None, links: Mapping[str, str], findings: Findings) -> tuple[str, ...] | None:
    ids: list[str] = []
    for text in _split(where, "lower", content, findings):
        match = _LOWER.fullmatch(text)
        if text.startswith("/"):
            findings.add(Kind.LOWER_ABSOLUTE, where, f"its `lower` has the absolute path {said(text)}: mounts fail")
        elif not match:
            problem = f"its `lower` has {said(text)}, which is not l/LINK: podman does not find it"
            findings.add(Kind.LOWER_MALFORMED, where, problem)
        elif match[1] not in links:
            problem = f"its `lower` names {said(text)}, which does not exist: it cannot be mounted"
            findings.add(Kind.LOWER_DANGLING, where, problem)
        else:
            ids.append(links[match[1]])
    return None if content is None else tuple(ids)


def _by_id(where: str, content: bytes | None, findings: Findings) -> tuple[str, ...] | None:
    ids: list[str] = []
    for text in _split(where, "lower-layers", content, findings):
        if HEX_ID.fullmatch(text):
            ids.append(text)
        else:
            problem = f"its `lower-layers` has {said(text)}, which is no id: podman 5.8 does not find it"
            findings.add(Kind.LOWER_MALFORMED, where, problem)
    return None if content is None else tuple(ids)


def _split(where: str, name: str, content: bytes | None, findings: Findings) -> list[str]:
    if content is None:
        return []
    if not content:
        problem = f"its `{name}` is empty, which is read as one nameless layer: there must be none at all"
        findings.add(Kind.LOWER_EMPTY, where, problem)
        return []
    return content.decode(errors="replace").split(":")


def _read_diff(overlay: Path, id_: str, raw: _Raw, findings: Findings) -> tuple[str, Mapping[str, bool]]:
    """Where `diff` leads, or what is in it."""
    where, path = named("layer", id_), f"{overlay}/{id_}/diff"
    if "diff" not in raw.names:
        findings.add(Kind.DIFF_MISSING, where, "has no `diff`: what stands on it cannot be mounted")
        return "", {}
    if text := link_text(path):
        if numbered := sorted(name for name in raw.names if re.fullmatch(r"diff[1-9]\d*", name)):
            problem = f"has {', '.join(numbered[:3])} beside a `diff` that is a link: podman 4 does not find them there"
            findings.add(Kind.DIFF_NUMBERED, where, problem)
        if not os.path.isabs(text):
            problem = f"its `diff` is the relative link {said(text)}: build, save, push and copying pulls fail"
            findings.add(Kind.DIFF_RELATIVE, where, problem)
        return os.path.normpath(os.path.join(os.path.dirname(path), text)), {}
    contents = _contents(path)
    if contents is None:
        findings.add(Kind.DIFF_MISSING, where, "its `diff` is neither a directory that can be read nor a link to one")
    return "", contents or {}


def _contents(path: str) -> dict[str, bool] | None:
    try:
        with os.scandir(path) as entries:
            return {entry.name: _hides(entry) for entry in entries}
    except OSError:
        return None


def _hides(entry: os.DirEntry[str]) -> bool:
    if entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False) or entry.is_symlink():
        return False
    status = entry.stat(follow_symlinks=False)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
