"""A registry of several images over HTTP on the loopback: manifests by tag and digest, blobs, tags and catalogue."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cvmfsrepo.digest import Digest
from tests.images.ocilayout import Image
from tests.publisher.registry.standin import Answer, Asked, Standin, standing


@dataclass(slots=True)
class Stub(Standin):
    """`images` and `indexes` by `repository:tag`; `statuses` answers what a path contains with a status, `garbage` with
    nonsense."""

    images: dict[str, Image] = field(default_factory=dict)
    indexes: dict[str, bytes] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    garbage: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)

    def answer(self, asked: Asked) -> Answer:
        self.requests.append(f"{asked.method} {asked.path}")
        for part, status in self.statuses.items():
            if part in asked.path:
                return Answer(b"{}", status, {"Retry-After": "120"} if status == 429 else {})
        if any(part in asked.path for part in self.garbage):
            return Answer(b"\x00nonsense")
        if asked.path.startswith("/v2/_catalog"):
            names = sorted({name.partition(":")[0] for name in self.images})
            return Answer(json.dumps({"repositories": names}).encode())
        repository, tags_list, _ = asked.path.removeprefix("/v2/").partition("/tags/list")
        if tags_list:
            tags = [name.partition(":")[2] for name in self.images if name.startswith(f"{repository}:")]
            return Answer(json.dumps({"name": repository, "tags": tags}).encode())
        return self._object(asked.path)

    def _object(self, path: str) -> Answer:
        kind = "/manifests/" if "/manifests/" in path else "/blobs/"
        repository, _, name = path.removeprefix("/v2/").partition(kind)
        for key, index in self.indexes.items():
            digest = str(Digest.of(index))
            if key == f"{repository}:{name}" or (key.startswith(f"{repository}:") and name == digest):
                return Answer(index, headers={"Docker-Content-Digest": digest})
        tagged = self.images.get(f"{repository}:{name}")
        digest = tagged.manifest if tagged else name
        mine = (image for key, image in self.images.items() if key.startswith(f"{repository}:"))
        paths = (image.blob(digest) for image in ((tagged,) if tagged else mine))
        found = next((path for path in paths if path.is_file()), None)
        return Answer(found.read_bytes(), headers={"Docker-Content-Digest": digest}) if found else Answer(b"{}", 404)


@contextmanager
def running(stub: Stub) -> Iterator[Stub]:
    """Serves until the block ends."""
    with standing(stub):
        yield stub
