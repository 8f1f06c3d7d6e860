"""The registries of a wish list over the client for one image: until there is a client for whole registries."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss, InvalidArgument
from cvmfsrepo.oci import Platform, Reference, choose_manifest, is_index, parse_index, parse_manifest
from publisher.registry.blobs import RegistryBlobs
from publisher.source import Source, is_loopback, read_document

_LIST_LIMIT = 16 << 20
_PAGES_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class WishedRegistries:
    """`plain` are the registries that are wished for with `http://`."""

    plain: frozenset[str] = frozenset()

    def find_digest(self, reference: Reference) -> Digest:
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

    def _asked(self, reference: Reference) -> "_Lists":
        return _Lists(reference, reference.registry in self.plain or is_loopback(reference.registry))


class _Lists(RegistryBlobs):
    """A registry that is asked for its lists, too."""

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


def _names(content: bytes, key: str, path: str) -> list[str]:
    try:
        names = json.loads(content)[key] or []
    except (ValueError, KeyError, TypeError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataLoss("registry's list", path, f"is none of {key}", "look what answers at this address")
    return names
