"""A private registry on the loopback, which remembers what was fetched from it."""

import json
import os
import re
import shutil
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from tests.engines import debs
from tests.engines.process import Daemon, EngineError, tail

_ACCESS = re.compile(r'^\S+ - \S+ \[[^]]*\] "(?P<method>[A-Z]+) (?P<path>\S+) [^"]*" (?P<status>\d+) ')
_OBJECT = re.compile(r"^/v2/(?P<name>.+)/(?P<kind>blobs|manifests)/(?P<reference>[^/?]+)(\?.*)?$")
_SETTLE = 0.05
"""Seconds: a client has its answer an instant before the registry writes the line about it."""


@dataclass(frozen=True, slots=True)
class Request:
    """One object that somebody asked for; ``reference`` is a digest, or a manifest's tag."""

    method: str
    kind: Literal["blobs", "manifests"]
    name: str
    reference: str
    status: int


class Registry:
    """docker-registry with its storage under ``directory``, which stays; plain http on a free port of 127.0.0.1. It
    lists at most so many repositories at a time."""

    def __init__(self, directory: Path, most_listed: int = 1000) -> None:
        self.directory, self._most_listed = directory, most_listed
        self.log = directory / "registry.log"
        self.settings: Mapping[str, object] = {}
        """More of its configuration, for the next start."""
        self._daemon: Daemon | None = None
        self._port = 0
        self._barriers = 0

    @property
    def address(self) -> str:
        """``127.0.0.1:port``: the first part of every reference to an image in it."""
        if not self._port:
            raise EngineError(f"registry {str(self.directory)!r}: not started; use it as a context manager")
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """On the port of the first time, if there was one."""
        self.directory.mkdir(parents=True, exist_ok=True)
        settings = self.directory / "registry.json"  # JSON is YAML
        settings.write_text(json.dumps(self._configuration()))
        began = self.log.stat().st_size if self.log.exists() else 0
        program = debs.REGISTRY.tool("docker-registry")
        self._daemon = Daemon([str(program.path), "serve", str(settings)], program.environment, self.log)
        try:
            self._daemon.wait_until(lambda: self._find_port(began), "listening")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        if self._daemon:
            self._daemon.end()
            self._daemon = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def reference(self, name: str) -> str:
        return f"{self.address}/{name}"

    def push(self, layout: Path, ref: str, name: str) -> str:
        """Copy the image ``ref`` of an OCI layout here as ``name:tag``, bytes unchanged; its full reference."""
        program = debs.SKOPEO.tool(
            "skopeo",
            # As root skopeo keeps a cache of blobs in /var/lib; as this user it goes where the next variable says.
            _CONTAINERS_ROOTLESS_UID="65534", XDG_DATA_HOME=str(self.directory / "skopeo"),
            XDG_RUNTIME_DIR=str(self.directory / "skopeo"),
        )  # fmt: skip
        reference = self.reference(name)
        program.run(
            "--insecure-policy", "copy", "-q", "--preserve-digests", "--dest-tls-verify=false", "--dest-no-creds",
            f"oci:{layout}:{ref}", f"docker://{reference}",
        )  # fmt: skip
        return reference

    def mark(self) -> int:
        """A point in time; everything answered before it is older, everything asked after it is newer."""
        self._flush()
        return self.log.stat().st_size

    def requests(self, since: int = 0) -> list[Request]:
        """What was asked of blobs and manifests, with any method, since a mark."""
        self._flush()
        return list(self._walk_requests(since))

    def blob_requests(self, since: int = 0) -> list[str]:
        """Digests of the blobs that were downloaded, layers and configs, in order and with repetitions."""
        return [r.reference for r in self.requests(since) if (r.method, r.kind) == ("GET", "blobs")]

    def manifest_requests(self, since: int = 0) -> list[str]:
        """Tags and digests of the manifests that were downloaded."""
        return [r.reference for r in self.requests(since) if (r.method, r.kind) == ("GET", "manifests")]

    def forget_blob(self, digest: str) -> None:
        """Lose a blob's bytes: whoever fetches it fails."""
        hexadecimal = digest.removeprefix("sha256:")
        shutil.rmtree(self._storage / "docker/registry/v2/blobs/sha256" / hexadecimal[:2] / hexadecimal)

    @property
    def _storage(self) -> Path:
        return self.directory / "storage"

    def _configuration(self) -> dict[str, object]:
        return {
            "version": "0.1",
            "log": {"level": "info", "accesslog": {"disabled": False}},
            "storage": {"filesystem": {"rootdirectory": str(self._storage)}, "delete": {"enabled": True}},
            "catalog": {"maxentries": self._most_listed},
            "http": {"addr": f"127.0.0.1:{self._port}", "secret": "loopback"},
            **self.settings,
        }

    def _walk_requests(self, since: int) -> Iterator[Request]:
        with self.log.open("rb") as lines:
            lines.seek(since)
            for line in lines:
                access = _ACCESS.match(line.decode(errors="replace"))
                if access and (found := _OBJECT.match(access["path"])):
                    kind: Literal["blobs", "manifests"] = "blobs" if found["kind"] == "blobs" else "manifests"
                    yield Request(access["method"], kind, found["name"], found["reference"], int(access["status"]))

    def _flush(self) -> None:
        """Wait until the lines about earlier answers are in the log."""
        self._barriers += 1
        query = f"/v2/?barrier={os.getpid()}-{self._barriers}"
        urllib.request.urlopen(f"http://{self.address}{query}", timeout=10).close()
        deadline = time.monotonic() + 10
        while f'"GET {query} ' not in tail(self.log, 20_000):
            if time.monotonic() > deadline:
                raise EngineError(f"registry {self.address}: writes no access log: {tail(self.log)}")
            time.sleep(0.01)
        time.sleep(_SETTLE)

    def _find_port(self, began: int) -> bool:
        with self.log.open("rb") as log:
            log.seek(began)
            found = re.search(rb"listening on 127\.0\.0\.1:(\d+)", log.read())
        if found:
            self._port = int(found[1])
        return found is not None
