"""containerd's configuration as values: what a file says, or what `containerd config dump` makes of it.

Both formats are read into the same values. What a file does not say has containerd's default.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cvmfsrepo.errors import InvalidArgument

_CRI_1, _IMAGES, _RUNTIME = "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"
_TRANSFER = "io.containerd.transfer.v1.local"
_DEFAULT_DOWNLOADS = 3


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy plugin."""

    type: str
    address: str
    exports: Mapping[str, str] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """`version` is the file's format, 0 where it does not say. `snapshotter` is that of CRI's images. `local_pull` are
    the settings that keep 2.1 from pulling through the transfer service. `unpack` are the transfer service's platforms
    with their snapshotters; `runtime_snapshotters` what each runtime's containers use, where it is its own, and
    `platform_snapshotters` what the images for a runtime are unpacked into."""

    version: int = 0
    proxies: Mapping[str, Proxy] = field(default_factory=dict)
    snapshotter: str = "overlayfs"
    annotations_disabled: bool = True
    local_pull: tuple[str, ...] = ()
    unpack: tuple[tuple[str, str], ...] = ()
    runtimes: tuple[str, ...] = ()
    default_runtime: str = "runc"
    runtime_snapshotters: Mapping[str, str] = field(default_factory=dict)
    platform_snapshotters: Mapping[str, str] = field(default_factory=dict)
    disabled_plugins: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    names_plugins: bool = False

    @property
    def disables_cri(self) -> bool:
        return any(name in ("cri", _CRI_1, _IMAGES, _RUNTIME) for name in self.disabled_plugins)


def parse_config(text: str, path: str) -> EngineConfig:
    """The values of a text; `path` names it in errors."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument("containerd configuration", path, f"is not TOML: {error}") from None
    plugins = _table(document, "plugins")
    version = document.get("version", 0)
    old = _table(plugins, _CRI_1)
    if _IMAGES in plugins or _RUNTIME in plugins or version == 3:
        images, runtime = _table(plugins, _IMAGES), _table(_table(plugins, _RUNTIME), "containerd")
        registry = _table(images, "registry")
    else:
        images = runtime = _table(old, "containerd")
        registry = _table(old, "registry")
    runtimes = _tables(runtime, "runtimes")
    return EngineConfig(
        version=version if isinstance(version, int) else 0,
        proxies={name: _proxy(table) for name, table in _tables(document, "proxy_plugins").items()},
        snapshotter=str(images.get("snapshotter") or "overlayfs"),
        annotations_disabled=images.get("disable_snapshot_annotations", True) is not False,
        local_pull=_local_pull(images if images is not runtime else {**old, **images}, registry),
        unpack=_unpack(_table(plugins, _TRANSFER)),
        runtimes=tuple(runtimes),
        default_runtime=str(runtime.get("default_runtime_name") or "runc"),
        runtime_snapshotters=_snapshotters(runtimes),
        platform_snapshotters=_snapshotters(_tables(images, "runtime_platforms")),
        disabled_plugins=_strings(document.get("disabled_plugins")),
        imports=_strings(document.get("imports")),
        names_plugins=bool(plugins),
    )


def _proxy(table: Mapping[str, Any]) -> Proxy:
    exports = {str(name): str(value) for name, value in _table(table, "exports").items()}
    return Proxy(
        str(table.get("type", "")), str(table.get("address", "")), exports, _strings(table.get("capabilities"))
    )


def _local_pull(images: Mapping[str, Any], registry: Mapping[str, Any]) -> tuple[str, ...]:
    found = [name for name in ("use_local_image_pull", "discard_unpacked_layers") if images.get(name) is True]
    if images.get("max_concurrent_downloads", _DEFAULT_DOWNLOADS) != _DEFAULT_DOWNLOADS:
        found.append("max_concurrent_downloads")
    return (*found, *(f"registry.{name}" for name in ("mirrors", "configs", "auths") if registry.get(name)))


def _unpack(transfer: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    entries = transfer.get("unpack_config")
    if not isinstance(entries, list):
        return ()
    tables = [entry for entry in entries if isinstance(entry, dict)]
    return tuple((str(entry.get("platform", "")), str(entry.get("snapshotter", ""))) for entry in tables)


def _snapshotters(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    return {name: str(table["snapshotter"]) for name, table in tables.items() if table.get("snapshotter")}


def _table(parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = parent.get(name)
    return found if isinstance(found, dict) else {}


def _tables(parent: Mapping[str, Any], name: str) -> dict[str, Mapping[str, Any]]:
    return {key: table for key, table in _table(parent, name).items() if isinstance(table, dict)}


def _strings(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()
