"""Blobs and manifests of one image, of the mirrors of its registry or of the registry itself.

A mirror that lacks something or fails is passed over with a word in the log. What comes from wherever is verified in
the same way, by its digest; a blob that breaks off is asked for from there on.
"""

import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NoReturn, TypeVar

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError, DataLoss, InvalidArgument, NotFound, Unavailable
from cvmfsrepo.oci import INDEX_TYPES, MANIFEST_TYPES, Descriptor, Reference
from publisher.registry.body import Body
from publisher.registry.errand import Errand
from publisher.registry.host import Host, Query
from publisher.registry.wire import Response, finish
from publisher.source import DOCUMENT_LIMIT

log = logging.getLogger(__name__)

MANIFEST_LIMIT = 4 << 20
"""Bytes of a manifest or index, as registries limit them too."""
_ACCEPT = {"Accept": ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))}
_NO_HEAD = (404, 405, 501)
"""What some registries answer to a HEAD request only."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Door:
    """Where an image is: `repository` of `host`, with the prefix of a mirror before it."""

    host: Host
    repository: str
    errand: Errand
    is_mirror: bool

    @classmethod
    def of(cls, host: Host, prefix: str | None, reference: Reference) -> "Door":
        """`prefix` is None for the registry itself."""
        repository = f"{prefix}/{reference.repository}" if prefix else reference.repository
        return cls(host, repository, Errand("image", str(reference), host.name), prefix is not None)

    def ask(self, path: str, headers: Mapping[str, str] = _ACCEPT, method: str = "GET") -> Response:
        scope = f"repository:{self.repository}:pull"
        return self.host.ask(self.errand, Query(f"{self.repository}/{path}", self.repository, scope, method), headers)

    def get(self, path: str, what: str, headers: Mapping[str, str] = _ACCEPT) -> Response:
        """An answer of which the body is worth reading."""
        response = self.ask(path, headers)
        if response.status_code != 200:
            finish(response)
            raise self.errand.refused(response.status_code, response.reason, what)
        kind = response.headers.get("Content-Type", "")
        if kind.startswith("text/html"):
            finish(response)
            raise self.errand.garbage(f"a page ({kind[:100]}) in place of the {what}")
        return response


class RegistryBlobs:
    """`doors` are tried in their order, the registry itself last."""

    def __init__(self, reference: Reference, doors: Sequence[Door]) -> None:
        self._reference, self._doors = reference, tuple(doors)

    def read_manifest(self, digest: Digest | None) -> bytes:
        """A manifest or index, by digest or by the reference's tag, verified as far as that can be."""
        return self._first(lambda door: _manifest(door, digest, self._reference.tag))

    def read(self, descriptor: Descriptor, what: str) -> bytes:
        """A small blob, whole and verified."""
        if descriptor.size > DOCUMENT_LIMIT:
            raise InvalidArgument(what, str(descriptor.digest), f"has {descriptor.size} bytes, too many to be one")
        return self._first(lambda door: _document(door, descriptor, what))

    @contextmanager
    def open(self, descriptor: Descriptor) -> Iterator[io.RawIOBase]:
        """The blob as it comes over the wire, not verified."""
        path, what = f"blobs/{descriptor.digest}", f"blob {descriptor.digest}"

        def opened(door: Door) -> tuple[Door, Response]:
            return door, door.get(path, what)

        def lost(error: OSError) -> NoReturn:
            raise door.errand.lost(error) from None

        door, response = self._first(opened)
        with closing(Body(response, lost, partial(self._resumed, door, path))) as body:
            try:
                yield body
            except DataLoss:  # whoever read it found out
                if door.is_mirror:
                    door.host.distrust()
                raise

    def find_digest(self) -> Digest:
        """What the reference's tag means now: by one HEAD request, or the manifest where that says nothing of use."""
        return self._reference.digest or self._first(lambda door: _digest(door, str(self._reference.tag)))

    def _resumed(self, door: Door, path: str, offset: int, broken: int) -> Response | None:
        """The rest of a blob, or None where nobody gives it: a mirror is asked once, then the registry itself."""
        if door.is_mirror:
            try:
                if broken == 1 and (rest := _rest(door, path, offset)):
                    return rest
            except ContractError as error:
                _pass_over(door.host, error)
        return _rest(self._doors[-1], path, offset)

    def _first(self, act: Callable[[Door], _T]) -> _T:
        for door in self._doors[:-1]:
            if door.host.is_closed:
                continue
            try:
                return act(door)
            except ContractError as error:
                _pass_over(door.host, error)
        return act(self._doors[-1])


def _pass_over(mirror: Host, error: ContractError) -> None:
    """One that lacks images lacks many: only the first is a warning."""
    if isinstance(error, Unavailable):
        mirror.leave_for_a_while()
    level = logging.INFO if isinstance(error, NotFound) and mirror.lacks_some else logging.WARNING
    mirror.lacks_some = mirror.lacks_some or isinstance(error, NotFound)
    log.log(level, "mirror %s is passed over: %s", mirror.name, error)


def _rest(door: Door, path: str, offset: int) -> Response | None:
    response = door.ask(path, {**_ACCEPT, "Range": f"bytes={offset}-"})
    if response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
        return response
    response.close()
    return None


def _digest(door: Door, tag: str) -> Digest:
    response = door.ask(f"manifests/{tag}", method="HEAD")
    finish(response)
    if response.status_code == 200 and (said := _said_digest(response)):
        return said
    if response.status_code not in ((200, 405, 501) if door.is_mirror else (200, *_NO_HEAD)):
        raise door.errand.refused(response.status_code, response.reason, f"manifest {tag}")
    return Digest.of(_manifest(door, None, tag))


def _manifest(door: Door, digest: Digest | None, tag: str | None) -> bytes:
    what = f"manifest {digest or tag}"
    response = door.get(f"manifests/{digest or tag}", what)
    content = door.host.read(door.errand, response, MANIFEST_LIMIT, what)
    promised = digest or _said_digest(response)
    if promised and Digest.of(content) != promised:
        raise door.errand.garbage(f"a {what} that has another digest than the one it promises, {promised}")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict) and document.get("schemaVersion") == 1:
        raise door.errand.garbage("an image of the old schema 1", "push it again with a client of today")
    if isinstance(document, dict) and {"manifests", "layers"} <= {str(key).lower() for key in document}:
        raise door.errand.garbage("something that is an image and an index at once")
    if not isinstance(document, dict) or "schemaVersion" not in document:
        kind = response.headers.get("Content-Type", "no type")[:100]
        raise door.errand.garbage(f"a {what} that is none ({len(content)} bytes, {kind})")
    return content


def _document(door: Door, descriptor: Descriptor, what: str) -> bytes:
    response = door.get(f"blobs/{descriptor.digest}", f"{what} {descriptor.digest}")
    content = door.host.read(door.errand, response, descriptor.size, what)
    if Digest.of(content) != descriptor.digest:
        raise door.errand.garbage(f"a {what} that is not what its digest promises, {descriptor.digest}")
    return content


def _said_digest(response: Response) -> Digest | None:
    """What the registry says of a manifest; None where it says nothing of use."""
    try:
        return Digest.parse(response.headers.get("Docker-Content-Digest", ""), "digest of the registry")
    except InvalidArgument:
        return None
