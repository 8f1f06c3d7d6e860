"""The files that make a whole tree a container of Apptainer's and Singularity's. Pure.

Apptainer reads `/.singularity.d` when it starts a container: the scripts in `env/` set the environment, in the order of
their names, and `run` executes `runscript`. `actions/` and the links at the root are for Singularity 2 and 3, which
execute them inside of the container. Names, modes and link texts are those of an image that Apptainer converts
itself; what a script does is what Docker would do: entrypoint and command are words, which no shell looks into.

Where an image has such a name itself: at the root its own wins, for nothing that runs today needs ours; in
`.singularity.d` ours wins, for it says what the image's config says. An image whose config names no program keeps its
own runscript. Everything else of the image stays: `/etc/hosts` and `/etc/resolv.conf`, too.

Mount points: on a tree that nobody may write Apptainer makes those that it needs by itself, but `/tmp` and `/var/tmp`:
without them it warns and goes on without. So these two are added, and no others.
"""

import posixpath
import shlex
import stat
from collections.abc import Iterator, Mapping

import msgspec

from cvmfsrepo.tree import Entry
from cvmfsrepo.whiteouts import ancestors
from publisher.flat.flatten import Placed, Tree
from publisher.flat.imageconfig import RunConfig

VERSION = 1
"""Of what is added: a tree with files of another version is no base for a tree with ours."""

_HOME = b".singularity.d"
_DIRECTORIES = (_HOME, _HOME + b"/actions", _HOME + b"/env", _HOME + b"/libs")
_LINKS: Mapping[bytes, bytes] = {
    b".exec": b".singularity.d/actions/exec",
    b".run": b".singularity.d/actions/run",
    b".shell": b".singularity.d/actions/shell",
    b".test": b".singularity.d/actions/test",
    b"environment": b".singularity.d/env/90-environment.sh",
    b"singularity": b".singularity.d/runscript",
}
_MOUNT_POINTS = (b"tmp", b"var/tmp")
_RUNSCRIPT = _HOME + b"/runscript"

_SET_UP = """#!/bin/sh
for script in /.singularity.d/env/*.sh; do
    if [ -f "$script" ]; then
        . "$script"
    fi
done
unset script
"""
_SHELL = """
if [ -n "${SINGULARITY_SHELL:-}" ]; then
    exec "$SINGULARITY_SHELL" "$@"
fi
if [ -x /bin/bash ]; then
    exec /bin/bash --norc "$@"
fi
exec /bin/sh "$@"
"""
_LAST = """#!/bin/sh
# The folder is where Apptainer puts a graphics driver's libraries.
LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/.singularity.d/libs"
PS1="${PS1:-Apptainer> }"
export LD_LIBRARY_PATH PS1
"""
_KNOWN_BY = """#!/bin/sh
# Apptainer knows an OCI image's runscript by the line in quotes, and then needs no shell of the image to run it.
: '
eval "set ${SINGULARITY_OCI_RUN}"
'"""
_NO_PROGRAM = """case "${1:-}" in
    "") echo "the image names no program: give one" >&2; exit 125 ;;
    -*) echo "$1: is no program" >&2; exit 127 ;;
esac"""
"""A shell would take a word with a dash for an option of exec."""


def with_apptainer(tree: Tree, config: RunConfig) -> Tree:
    """The tree with these files in it."""
    added = {placed.entry.path: placed for placed in _added(tree, config)}
    files = {path for path, placed in added.items() if not placed.entry.is_directory}
    kept = {path: placed for path, placed in tree.items() if files.isdisjoint(ancestors(path))}
    return dict(sorted({**kept, **added}.items()))


def _added(tree: Tree, config: RunConfig) -> Iterator[Placed]:
    for path in _DIRECTORIES:
        yield _directory(path, 0o755)
    for path, text, mode in _files(config):
        if path != _RUNSCRIPT or config.entrypoint or config.cmd or path not in tree:
            content = text.encode()
            yield Placed(Entry(path, stat.S_IFREG | mode, size=len(content)), content=content)
    for path, target in _LINKS.items():
        if path not in tree:
            yield Placed(Entry(path, stat.S_IFLNK | 0o777, target=target))
    for path in _MOUNT_POINTS:
        yield from _mount_point(tree, path)


def _files(config: RunConfig) -> Iterator[tuple[bytes, str, int]]:
    """Path, content and mode of each."""
    yield _HOME + b"/env/10-docker2singularity.sh", environment_script(config), 0o755
    yield _HOME + b"/env/90-environment.sh", "#!/bin/sh\n", 0o755
    yield _HOME + b"/env/99-base.sh", _LAST, 0o755
    yield _RUNSCRIPT, runscript(config), 0o755
    yield _HOME + b"/startscript", "#!/bin/sh\n", 0o755
    yield _HOME + b"/labels.json", labels_json(config), 0o644
    yield _HOME + b"/actions/exec", _SET_UP + 'exec "$@"\n', 0o755
    yield _HOME + b"/actions/run", _SET_UP + 'exec /.singularity.d/runscript "$@"\n', 0o755
    yield _HOME + b"/actions/shell", _SET_UP + _SHELL, 0o755
    yield _HOME + b"/actions/start", _SET_UP + 'exec /.singularity.d/startscript "$@"\n', 0o755
    yield _HOME + b"/actions/test", "#!/bin/sh\n", 0o755


def environment_script(config: RunConfig) -> str:
    """Sets the image's variables. PATH is the image's; others give way to what the caller has set, as in images that
    Apptainer converts, which also keeps a shell from being told to change what it holds to be read-only (UID)."""
    lines = ["#!/bin/sh"]
    for name, value in config.environment.items():
        if name == "PATH":
            lines += [f"PATH={shlex.quote(value)}", "export PATH"]
        else:
            lines += [f'if [ -z "${{{name}:-}}" ]; then', f"    {name}={shlex.quote(value)}", "fi", f"export {name}"]
    return "\n".join([*lines, ""])


def runscript(config: RunConfig) -> str:
    """Runs the entrypoint with the caller's arguments, or with the command where there are none."""
    entrypoint, cmd = config.entrypoint, config.cmd
    if entrypoint:
        entrypoint = (_program(entrypoint[0], config), *entrypoint[1:])
    elif cmd:
        cmd = (_program(cmd[0], config), *cmd[1:])
    lines = [_KNOWN_BY]
    if cmd:
        lines += ['if [ "$#" -eq 0 ]; then', f"    set -- {shlex.join(cmd)}", "fi"]
    if entrypoint:
        lines.append(f'set -- {shlex.join(entrypoint)} "$@"')
    if not entrypoint or entrypoint[0].startswith("-"):
        lines.append(_NO_PROGRAM)
    return "\n".join([*lines, 'exec "$@"', ""])


def labels_json(config: RunConfig) -> str:
    return msgspec.json.format(msgspec.json.encode(dict(sorted(config.labels.items()))), indent=2).decode() + "\n"


def _program(word: str, config: RunConfig) -> str:
    """Docker finds `./program` from the image's working directory, and Apptainer stays in the caller's."""
    return posixpath.join(config.working_directory, word) if "/" in word else word


def _mount_point(tree: Tree, path: bytes) -> Iterator[Placed]:
    """A directory for everybody, where nothing has its name and no link leads there."""
    above = [directory for directory in ancestors(path) if directory]
    if path not in tree and all(d not in tree or tree[d].entry.is_directory for d in above):
        yield from (_directory(directory, 0o755) for directory in above if directory not in tree)
        yield _directory(path, 0o1777)


def _directory(path: bytes, mode: int) -> Placed:
    return Placed(Entry(path, stat.S_IFDIR | mode))
