"""Names and passwords for registries, from where podman, skopeo, docker and DUCC look for them.

In this order, the first that has an entry for the image counts; in a file the most exact key does, as
containers-auth.json(5) has it (`registry/group/image`, `registry/group`, `registry`):

1. DUCC's environment: DUCC_AUTH_REGISTRIES=A,B, and of each DUCC_A_IDENT (the registry), DUCC_A_USER and DUCC_A_PASS;
2. $REGISTRY_AUTH_FILE;
3. containers/auth.json below $XDG_RUNTIME_DIR, then below ~/.config;
4. config.json in $DOCKER_CONFIG or ~/.docker.

A file may also name programs that keep logins, for one registry or for all; they are asked after its own entries.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from cvmfsrepo.errors import DataLoss
from publisher.registry.login import Login
from publisher.registry.programs import ask_program

_LIMIT = 1 << 20
_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io", "https://index.docker.io/v1/")


class _Auth(msgspec.Struct):
    auth: str = ""
    identitytoken: str = ""


class _AuthFile(msgspec.Struct, rename="camel"):
    auths: dict[str, _Auth] = {}
    cred_helpers: dict[str, str] = {}
    creds_store: str = ""


_decode = msgspec.json.Decoder(_AuthFile).decode


def find_login(registry: str, repository: str, environment: Mapping[str, str], home: Path) -> Login | None:
    """The login for a repository, or None. DataLoss where a file that comes before cannot be read: to go on without it
    would only look like a wrong password."""
    if login := _of_ducc(registry, environment):
        return login
    for path in auth_files(environment, home):
        if login := _in_file(path, registry, repository):
            return login
    return None


def auth_files(environment: Mapping[str, str], home: Path) -> Iterator[Path]:
    """The files that may hold logins, in their order; they need not be there."""
    if named := environment.get("REGISTRY_AUTH_FILE"):
        yield Path(named)
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        yield Path(runtime, "containers/auth.json")
    yield Path(environment.get("XDG_CONFIG_HOME") or home / ".config", "containers/auth.json")
    yield Path(environment.get("DOCKER_CONFIG") or home / ".docker", "config.json")


def _of_ducc(registry: str, environment: Mapping[str, str]) -> Login | None:
    for name in environment.get("DUCC_AUTH_REGISTRIES", "").split(","):
        prefix = f"DUCC_{name.strip()}_"
        ident = environment.get(f"{prefix}IDENT", "").removeprefix("https://").removeprefix("http://").rstrip("/")
        if name.strip() and registry in _spellings(ident):
            return Login.of(environment.get(f"{prefix}USER", ""), environment.get(f"{prefix}PASS", ""))
    return None


def _in_file(path: Path, registry: str, repository: str) -> Login | None:
    try:
        with path.open("rb") as file:
            known = _decode(file.read(_LIMIT))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
        raise DataLoss("credentials", str(path), problem, "mend it, or remove it") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DataLoss("credentials", str(path), f"does not parse: {error}", "log in again, or remove it") from None
    for key in _keys(registry, repository):
        if (found := known.auths.get(key)) and (found.auth or found.identitytoken):
            return Login(_checked(found.auth, path, key) if found.auth else "", found.identitytoken)
    for spelling in _spellings(registry):
        if program := known.cred_helpers.get(spelling):
            return ask_program(program, spelling)
    server = _HUB[-1] if registry in _HUB else registry
    return ask_program(known.creds_store, server) if known.creds_store else None


def _keys(registry: str, repository: str) -> Iterator[str]:
    """The most exact first; docker wrote registries as addresses once."""
    parts = repository.split("/")
    for count in range(len(parts), 0, -1):
        yield f"{registry}/{'/'.join(parts[:count])}"
    for spelling in _spellings(registry):
        yield from (spelling, f"https://{spelling}", f"https://{spelling}/", f"https://{spelling}/v1/")


def _spellings(registry: str) -> tuple[str, ...]:
    return _HUB if registry in _HUB else (registry,)


def _checked(login: str, path: Path, key: str) -> str:
    try:
        if b":" in base64.b64decode(login, validate=True):
            return login
    except binascii.Error:
        pass
    raise DataLoss("credentials", str(path), f"have no name:password in base64 for {key!r}", "log in again")
