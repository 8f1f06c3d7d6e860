"""The registries of a wish list over the client for one image: until there is a client for whole registries."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss, InvalidArgument, Unavailable
from cvmfsrepo.oci import Platform, Reference, choose_manifest, is_index, parse_index, parse_manifest
from publisher.registry.blobs import _ACCEPT, RegistryBlobs
from publisher.source import Source, _is_loopback, read_document

_LIST_LIMIT = 16 << 20
_PAGES_LIMIT = 1000


class Throttled(Unavailable):
    """The registry asks for patience: `seconds` of it."""

    seconds: float = 60


@dataclass(frozen=True, slots=True)
class WishedRegistries:
    """`plain` are the registries that are wished for with `http://`."""

    plain: frozenset[str] = frozenset()

    def find_digest(self, reference: Reference) -> Digest:
        if reference.digest:
            return reference.digest
        return self._asked(reference).find_digest()

    def list_tags(self, registry: str, repository: str) -> tuple[str, ...]:
        asked = self._asked(Reference.parse(f"{registry}/{repository}"))
        return tuple(asked.walk_list(f"/v2/{repository}/tags/list?n=1000", "tags"))

    def list_repositories(self, registry: str) -> Iterator[str]:
        yield from self._asked(Reference.parse(f"{registry}/catalog")).walk_list("/v2/_catalog?n=1000", "repositories")

    def open(self, reference: Reference, platform: Platform) -> Source:
        blobs = self._asked(reference)
        manifest, indexes = blobs.read_manifest(reference.digest), tuple[bytes, ...]()
        if is_index(manifest):
            indexes = (manifest,)
            manifest = blobs.read_manifest(choose_manifest(parse_index(manifest), platform).digest)
        config = read_document(blobs, parse_manifest(manifest).config, "image config")
        return Source(f"docker://{reference}", reference, manifest, config, blobs, indexes)

    def _asked(self, reference: Reference) -> "_Asked":
        return _Asked(reference, reference.registry in self.plain or _is_loopback(reference.registry))


class _Asked(RegistryBlobs):
    def find_digest(self) -> Digest:
        """HEAD; where that says nothing of use, the manifest itself."""
        tag = str(self._reference.tag)
        with self._told():
            response = self._client.do_request(f"{self._base}/manifests/{tag}", "HEAD", headers={"Accept": _ACCEPT})
        try:
            if response.status_code == 200 and (said := response.headers.get("Docker-Content-Digest")):
                return Digest.parse(said, "digest of the registry")
            if response.status_code not in (200, 405, 501):
                raise self._refusal(response, "manifest", tag)
        finally:
            response.close()
        return Digest.of(self.read_manifest(None))

    def walk_list(self, path: str, key: str) -> Iterator[str]:
        """A list that comes in pages; each page is led to on the same registry only."""
        base = self._base.partition("/v2/")[0]
        for _ in range(_PAGES_LIMIT):
            with self._told():
                response = self._client.do_request(f"{base}{path}", "GET")
            try:
                if response.status_code != 200:
                    raise self._refusal(response, "list of", key)
                yield from _names(response.content[: _LIST_LIMIT + 1], key, path)
                link = response.links.get("next", {}).get("url")
            finally:
                response.close()
            if not link:
                return
            parts = urlsplit(link)
            path = f"/{parts.path.lstrip('/')}?{parts.query}"
        raise InvalidArgument("registry", self._reference.registry, f"gives no end of {key}")

    def _refusal(self, response: Any, thing: str, name: str) -> Any:
        if response.status_code != 429:
            return super()._refusal(response, thing, name)
        problem = "cannot be read: the registry answered 429 and asks for patience"
        error = Throttled("image", str(self._reference), problem, "try again later")
        said = response.headers.get("Retry-After", "")
        error.seconds = min(float(said), 3600.0) if said.isascii() and said.isdecimal() and len(said) < 9 else 60.0
        return error


def _names(content: bytes, key: str, path: str) -> list[str]:
    try:
        names = json.loads(content)[key] or []
    except (ValueError, KeyError, TypeError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataLoss("registry's list", path, f"is none of {key}", "look what answers at this address")
    return names
