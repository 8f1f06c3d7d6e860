"""All registries that a pass or a command asks, as one value: each is one session, whose connections, tokens and limits
its images share."""

import os
import threading
import time
from collections.abc import Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import Self

from cvmfsrepo.digest import Digest
from cvmfsrepo.oci import Platform, Reference, choose_manifest, is_index, parse_index, parse_manifest
from publisher.registry.blobs import Door, RegistryBlobs
from publisher.registry.credentials import find_login
from publisher.registry.host import Host, Query
from publisher.registry.lists import PAGE, read_list
from publisher.registry.login import Login
from publisher.registry.pages import Known, Nothing
from publisher.registry.patience import LONGEST, USUAL, Patience
from publisher.registry.settings import Settings
from publisher.source import Source


class Registries:
    """`plain` are registries that are wished for with `http://`; `known` keeps what lists said. Safe from several
    threads; its end closes the connections."""

    def __init__(
        self, settings: Settings | None = None, plain: Iterable[str] = (), known: Known | None = None,
        patience: Patience = USUAL,
    ) -> None:  # fmt: skip
        self._settings, self._plain = settings or Settings(), frozenset(plain)
        self._known, self._patience = known or Nothing(), patience
        self._hosts, self._lock = dict[str, Host](), threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in self._hosts.values():
            host.close()

    def find_digest(self, reference: Reference) -> Digest:
        """What the tag means now, in one request."""
        return self.blobs(reference).find_digest()

    def open(self, reference: Reference, platform: Platform) -> Source:
        """The image with its manifest and config read and verified."""
        blobs = self.blobs(reference)
        manifest, indexes = blobs.read_manifest(reference.digest), tuple[bytes, ...]()
        if is_index(manifest):
            indexes = (manifest,)
            manifest = blobs.read_manifest(choose_manifest(parse_index(manifest), platform).digest)
        config = blobs.read(parse_manifest(manifest).config, "image config")
        return Source(f"docker://{reference}", reference, manifest, config, blobs, indexes)

    def blobs(self, reference: Reference) -> RegistryBlobs:
        """What the mirrors and the registry have of an image."""
        mirrors = (mirror.partition("/") for mirror in self._settings.of(reference.registry).mirrors)
        doors = [Door.of(self._host(name), prefix, reference) for name, _, prefix in mirrors]
        return RegistryBlobs(reference, [*doors, Door.of(self._host(reference.registry), None, reference)])

    def list_tags(self, registry: str, repository: str) -> tuple[str, ...]:
        """Of the registry itself: a mirror knows those that it was asked for."""
        query = Query(f"{repository}/tags/list{PAGE}", repository, f"repository:{repository}:pull")
        return read_list(self._host(registry), query, "tags", self._known)

    def list_repositories(self, registry: str) -> tuple[str, ...]:
        query = Query(f"_catalog{PAGE}", "", "registry:catalog:*")
        return read_list(self._host(registry), query, "repositories", self._known)

    def leave_alone(self, until: Mapping[str, float]) -> None:
        """Hosts that asked an earlier pass for it; times in seconds since 1970."""
        for name, moment in until.items():
            self._host(name).leave_alone(min(moment, time.time() + LONGEST))

    def left_alone(self) -> dict[str, float]:
        """Those that want to be left alone now, until when."""
        with self._lock:
            waiting = {name: host.left_alone_until for name, host in sorted(self._hosts.items())}
        return {name: until for name, until in waiting.items() if until}

    def _host(self, name: str) -> Host:
        with self._lock:
            if name not in self._hosts:
                settings, login = self._settings.of(name), cache(partial(_login, name))
                self._hosts[name] = Host(name, settings, name in self._plain, login, self._patience)
            return self._hosts[name]


def _login(registry: str, repository: str) -> Login | None:
    return find_login(registry, repository, os.environ, Path.home())
