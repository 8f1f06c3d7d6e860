"""What an image's root file system is: its layer tars laid one on top of another onto a plain directory.

Written on its own, with nothing of the project and no overlay, so that it can judge both. The rules are those of
the OCI image specification's layer chapter:

- markers are about the layers below, wherever they stand in their own tar, so what a layer deletes goes first;
- a directory over a directory merges and takes the upper one's metadata; anything else replaces what is there;
- a directory that a tar needs before it lists it, for a marker too, keeps what is below it, or is new: 0755, owned by
  0, of the group that mkdir gives it. So members are made in the tar's order: a directory that is setgid by then gives
  its group, one that is listed as setgid later does not;
- names are never followed through symlinks;
- an opaque mark on the root itself is ignored, and so is the root's own entry: a real pull does so, and the pull is
  what we must equal.
"""

import io
import os
import shutil
import stat
import tarfile
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Final

_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"
_XATTR: Final = "SCHILY.xattr."
_ROOT: Final = "."


def apply(layers: Sequence[bytes], target: Path) -> frozenset[str]:
    """Build the root file system of these tars, from the base upwards, in `target`, which must not exist.

    Returns the directories whose mtime means nothing: the root, `.`, whose entry containerd ignores, and those
    that the last layer with anything in them does not list. Needs root, for owners and devices.
    """
    if os.geteuid() != 0:
        raise PermissionError(f"oracle {str(target)!r}: owners and devices need root; run the tests as root")
    _make_directory(target)
    undated: set[str] = set()
    for layer in layers:
        with _opened(layer) as tar:
            undated = (undated | _touched_directories(tar)) - _listed_directories(tar)
            _delete(tar, target)
            _make_members(tar, target)
    return frozenset({_ROOT, *(name for name in undated if _is_directory(target / name))})


def _opened(layer: bytes) -> tarfile.TarFile:
    """With padding and end added where a tool left them out: `umoci insert` does, and Go's reader takes it."""
    whole = io.BytesIO(layer + bytes(-len(layer) % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE))
    return tarfile.open(fileobj=whole, encoding="utf-8", errors="surrogateescape")


def _delete(tar: tarfile.TarFile, target: Path) -> None:
    """Remove what the layers below have made and this one's markers are about; nothing is made yet."""
    for folder, base in (os.path.split(_name(member)) for member in tar if _is_marker(_name(member))):
        if not all(_is_directory(target / part) for part in (folder, *_parents(folder)) if part):
            continue
        if base != _OPAQUE:
            _remove(target / folder / base.removeprefix(_WHITEOUT))
        elif folder:
            for child in list((target / folder).iterdir()):
                _remove(child)


def _make_members(tar: tarfile.TarFile, target: Path) -> None:
    """In the tar's order; the times of directories last, for whatever is made in one changes it."""
    directories = []
    for member in tar:
        name = _name(member)
        if name == _ROOT:
            continue
        _need_directory(target, os.path.dirname(name))
        if _is_marker(name):
            continue
        _make(tar, member, target, name)
        if member.isdir():
            directories.append((target / name, member))
    for path, member in directories:
        _set_time(path, member)


def _make(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, name: str) -> None:
    path = target / name
    if not (member.isdir() and _is_directory(path)):
        _remove(path)
    if member.isdir():
        _need_directory(target, name)
        for attribute in os.listxattr(path):
            os.removexattr(path, attribute)
    elif member.isreg():
        content = tar.extractfile(member)
        assert content is not None
        with content, path.open("xb") as file:
            shutil.copyfileobj(content, file)
    elif member.issym():
        os.symlink(member.linkname, path)
    elif member.islnk():
        os.link(target / os.path.normpath(member.linkname), path, follow_symlinks=False)
    elif member.isfifo():
        os.mkfifo(path)
    elif member.ischr() or member.isblk():
        kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
        os.mknod(path, kind, os.makedev(member.devmajor, member.devminor))
    else:
        raise ValueError(f"member {name!r}: type {member.type!r} is not one of a layer's; mend the test's tar")
    _set_metadata(path, member)


def _set_metadata(path: Path, member: tarfile.TarInfo) -> None:
    """Owner first, for changing it drops the setuid bits and the file capability."""
    os.chown(path, member.uid, member.gid, follow_symlinks=False)
    if not path.is_symlink():
        os.chmod(path, stat.S_IMODE(member.mode))
    for key, value in member.pax_headers.items():
        if key.startswith(_XATTR):
            attribute = key.removeprefix(_XATTR)
            os.setxattr(path, attribute, os.fsencode(value), follow_symlinks=False)
    _set_time(path, member)


def _set_time(path: Path, member: tarfile.TarInfo) -> None:
    """To the nanosecond: the pax text has it, tarfile's own number is a float and has lost it."""
    mtime_ns = int(Decimal(member.pax_headers.get("mtime", str(int(member.mtime)))) * 1_000_000_000)
    os.utime(path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)


def _touched_directories(tar: tarfile.TarFile) -> set[str]:
    """Every directory on the way to a member, markers included."""
    return {parent for member in tar for parent in _parents(_name(member))}


def _listed_directories(tar: tarfile.TarFile) -> set[str]:
    return {_name(member) for member in tar if member.isdir()} - {_ROOT}


def _parents(name: str) -> Iterator[str]:
    while name := os.path.dirname(name):
        yield name


def _need_directory(target: Path, name: str) -> None:
    """Each part of `name` is a directory afterwards; one that was a directory already keeps what it is and has."""
    for part in reversed([name, *_parents(name)]):
        if not _is_directory(target / part):
            _remove(target / part)
            _make_directory(target / part)


def _make_directory(path: Path) -> None:
    """As containerd does: the kernel gives it the group of a setgid directory and that bit, and chmod takes the bit."""
    path.mkdir()
    path.chmod(0o755)


def _remove(path: Path) -> None:
    if _is_directory(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_marker(name: str) -> bool:
    return os.path.basename(name).startswith(_WHITEOUT)


def _name(member: tarfile.TarInfo) -> str:
    """Without `./` and trailing slash; the root is `.`."""
    return os.path.normpath(member.name)
