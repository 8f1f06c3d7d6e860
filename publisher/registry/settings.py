"""What an operator says of registries, in TOML: mirrors, authorities, proxies. Checked at the border, with every
unknown key refused by its name and its file."""

import ssl
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from cvmfsrepo.errors import InvalidArgument
from cvmfsrepo.oci import Reference

DEFAULT = Path("/etc/cvmfs-publisher/publisher.toml")
_REMEDY = "every key and its default is explained in config/publisher.toml of the project"
_FASTEST = 1000.0


class RegistrySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    """One registry. `mirrors` are HOST[:PORT][/PREFIX] and asked first; `ca` is a PEM file that is trusted besides the
    system's; `plain_http` None means on this machine's loopback only; 0 requests a second means as many as come."""

    mirrors: tuple[str, ...] = ()
    ca: str = ""
    proxy: str = ""
    plain_http: bool | None = None
    requests_per_second: float = 0.0


class Settings(msgspec.Struct, frozen=True):
    """All registries by their names as they stand in references; a mirror is one by its own."""

    registries: dict[str, RegistrySettings] = {}

    def of(self, registry: str) -> RegistrySettings:
        return self.registries.get(registry, _PLAINLY)


_PLAINLY = RegistrySettings()
_decode = msgspec.json.Decoder(RegistrySettings).decode


def load_settings(path: Path | None) -> Settings:
    """Those of a file; where none is named, of the usual place, or the defaults if nothing is there."""
    chosen = path or DEFAULT
    try:
        return parse_settings(chosen.read_bytes(), chosen)
    except FileNotFoundError:
        if path is None:
            return Settings()
        raise InvalidArgument("configuration file", str(path), "is not there", _REMEDY) from None
    except OSError as error:
        raise InvalidArgument("configuration file", str(chosen), f"cannot be read ({error.strerror})") from None


def parse_settings(content: bytes, path: Path) -> Settings:
    """Settings, checked; `path` names them in errors."""
    try:
        document = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise _wrong(path, f"is not TOML: {error}") from None
    if unknown := set(document) - {"registries"}:
        raise _wrong(path, f"unknown key {min(unknown)!r}: known is registries")
    tables = document.get("registries", {})
    if not isinstance(tables, dict):
        raise _wrong(path, 'registries is no table: write [registries."HOST"]')
    return Settings({name: _registry(name, table, path) for name, table in tables.items()})


def _registry(name: str, table: object, path: Path) -> RegistrySettings:
    try:
        settings = _decode(msgspec.json.encode(table))
        _check(name, settings)
    except msgspec.MsgspecError as error:
        raise _wrong(path, f"registries.{name!r}: {error}") from None
    except InvalidArgument as error:
        raise _wrong(path, f"registries.{name!r}: {error.thing} {error.value!r} {error.problem}") from None
    return settings


def _check(name: str, settings: RegistrySettings) -> None:
    """Refuses values that can never work."""
    if _host(name) != name:
        raise InvalidArgument("the name", name, "is no HOST[:PORT]")
    for mirror in settings.mirrors:
        if _host(mirror) != mirror.partition("/")[0]:
            raise InvalidArgument("mirrors:", mirror, "is no HOST[:PORT][/PREFIX]")
    if settings.proxy and not _is_proxy(settings.proxy):
        raise InvalidArgument("proxy", settings.proxy, "is no http://HOST:PORT")
    if not 0 <= settings.requests_per_second <= _FASTEST:
        raise InvalidArgument("requests-per-second", settings.requests_per_second, f"is not from 0 to {_FASTEST:g}")
    if settings.ca:
        try:
            ssl.create_default_context(cafile=settings.ca)
        except OSError as error:  # ssl.SSLError too
            reason = error.strerror or "no certificates in PEM"
            raise InvalidArgument("ca", settings.ca, f"cannot be used: {reason}") from None


def _is_proxy(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:  # a bracket that is not closed
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _host(text: str) -> str | None:
    """The registry of a HOST[:PORT][/PREFIX]; None where it is none."""
    try:
        return Reference.parse(f"{text}/name").registry
    except InvalidArgument:
        return None


def _wrong(path: Path, problem: str) -> InvalidArgument:
    return InvalidArgument("configuration file", str(path), problem, _REMEDY)
