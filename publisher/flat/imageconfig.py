"""How an image says that it is to be run: the part of its config that a container's files are made from."""

import posixpath
import re
from typing import Annotated

import msgspec

from cvmfsrepo.errors import InvalidArgument

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_Words = tuple[str, ...] | str | None


class _Config(msgspec.Struct):
    entrypoint: _Words = msgspec.field(default=None, name="Entrypoint")
    cmd: _Words = msgspec.field(default=None, name="Cmd")
    env: tuple[str, ...] | None = msgspec.field(default=None, name="Env")
    working_dir: str | None = msgspec.field(default=None, name="WorkingDir")
    labels: dict[str, str] | None = msgspec.field(default=None, name="Labels")


class _Document(msgspec.Struct):
    config: _Config | None = None


_decode = msgspec.json.Decoder(_Document).decode


class RunConfig(msgspec.Struct, frozen=True):
    """What is run and with what: words of a command line; the variables that a shell can set, the last of each name;
    the image's labels."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    environment: Annotated[dict[str, str], "in the order of the config"] = {}
    working_directory: str = "/"
    labels: dict[str, str] = {}


def parse_run_config(content: bytes, thing: str = "image config") -> RunConfig:
    """InvalidArgument for a document that does not parse, and for a NUL byte, which no command line can hold."""
    try:
        config = _decode(content).config or _Config()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(thing, content[:80], f"does not parse: {error}") from None
    found = RunConfig(
        entrypoint=_words(config.entrypoint),
        cmd=_words(config.cmd),
        environment=_variables(config.env or ()),
        working_directory=posixpath.join("/", config.working_dir or ""),
        labels=config.labels or {},
    )
    texts = (*found.entrypoint, *found.cmd, *found.environment.values(), found.working_directory)
    if any("\0" in text for text in texts):
        raise InvalidArgument(thing, content[:80], "holds a NUL byte in what is to be run", "build the image again")
    return found


def _words(value: _Words) -> tuple[str, ...]:
    """Docker once wrote a single word as a text."""
    return (value,) if isinstance(value, str) else value or ()


def _variables(assignments: tuple[str, ...]) -> dict[str, str]:
    pairs = (text.partition("=") for text in assignments)
    return {name: value for name, equals, value in pairs if equals and _VARIABLE.fullmatch(name)}
