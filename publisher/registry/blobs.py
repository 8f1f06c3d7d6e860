"""Blobs and manifests of an image in a registry, over the oras client: the only file that touches it.

The client does tokens, Docker's credential files and redirects. Two things of it are not used: its manifests are
parsed, and we need the bytes that the digest is of; and it retries for two minutes before it says that nobody listens.
"""

import io
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn, cast

import oras.auth
import oras.provider

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError, DataLoss, NotFound, PermissionDenied, Unavailable
from cvmfsrepo.oci import INDEX_TYPES, MANIFEST_TYPES, Descriptor, Reference
from publisher.unpacking.stream import CHUNK

_MANIFEST_LIMIT = 8 << 20
_CONNECT_SECONDS, _READ_SECONDS = 15, 120
_ACCEPT = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))
_DOCKER_HUB = "registry-1.docker.io"


class RegistryBlobs:
    """The blobs of one image's repository. `plain` is HTTP without TLS."""

    def __init__(self, reference: Reference, plain: bool) -> None:
        self._reference = reference
        host = _DOCKER_HUB if reference.registry == "docker.io" else reference.registry
        scheme = "http" if plain else "https"
        self._base = f"{scheme}://{host}/v2/{reference.repository}"
        self._client = _client(host, plain)
        with self._told():
            self._client.auth.load_configs(self._client.get_container(f"{host}/{reference.repository}"))

    def read_manifest(self, digest: Digest | None) -> bytes:
        """A manifest or index, by digest (verified) or by the reference's tag."""
        name = str(digest) if digest else str(self._reference.tag)
        with self._get(f"manifests/{name}", "manifest", name) as body:
            content = b""
            while len(content) <= _MANIFEST_LIMIT and (chunk := body.read(CHUNK)):
                content += chunk
        if len(content) > _MANIFEST_LIMIT or (digest and Digest.of(content) != digest):
            raise DataLoss("manifest", name, f"from {self._reference.registry} is not what its digest promises")
        return content

    @contextmanager
    def open(self, descriptor: Descriptor) -> Iterator[io.RawIOBase]:
        """The blob as it comes over the wire, not verified."""
        with self._get(f"blobs/{descriptor.digest}", "blob", str(descriptor.digest)) as body:
            yield body

    @contextmanager
    def _get(self, path: str, thing: str, name: str) -> Iterator[io.RawIOBase]:
        with self._told():
            response = self._request(path)
            if response.status_code == 401:  # the token may be older than a long publication
                response.close()
                self._client.auth.token = None
                response = self._request(path)
        try:
            if response.status_code != 200:
                raise self._refusal(response, thing, name)
            yield _Body(response.iter_content(CHUNK), self._lost)
        finally:
            response.close()

    def _request(self, path: str) -> Any:
        return self._client.do_request(f"{self._base}/{path}", "GET", headers={"Accept": _ACCEPT}, stream=True)

    def _refusal(self, response: Any, thing: str, name: str) -> ContractError:
        where, status = str(self._reference), f"{response.status_code} {response.reason}"
        if response.status_code == 404:
            problem = f"has no {thing} {name} ({status})"
            return NotFound("image", where, problem, "look at the name and the tag in the registry")
        if response.status_code in (401, 403):
            return self._denied(status)
        return Unavailable("image", where, f"cannot be read: the registry answered {status}", "try again later")

    def _denied(self, detail: object) -> ContractError:
        host = self._reference.registry
        remedy = f"log in first, for example with docker login {host}; some registries say this of unknown images"
        return PermissionDenied("image", str(self._reference), f"is not given out by the registry ({detail})", remedy)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """The client's failures as ours. Its connection errors are OSErrors, those of authentication ValueErrors."""
        try:
            yield
        except OSError as error:
            self._lost(error)
        except ValueError as error:
            raise self._denied(error) from None

    def _lost(self, error: OSError) -> NoReturn:
        remedy = "look whether the registry runs and can be reached, and try again"
        problem = f"cannot be read from its registry: {_last_words(error)}"
        raise Unavailable("image", str(self._reference), problem, remedy) from None


class _Body(io.RawIOBase):
    """A response's content as a readable stream; a broken connection is told by `lost`."""

    def __init__(self, chunks: Iterator[bytes], lost: Callable[[OSError], NoReturn]) -> None:
        super().__init__()
        self._chunks, self._lost, self._rest = chunks, lost, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """At most one chunk of the response."""
        while not self._rest:
            try:
                chunk = next(self._chunks, None)
            except OSError as error:
                self._lost(error)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def _client(host: str, plain: bool) -> Any:
    logging.getLogger("oras").setLevel(logging.CRITICAL)  # errors are raised here, and told once
    client = cast(Any, oras.provider.Registry(hostname=host, insecure=plain))
    client.do_request = partial(oras.provider.Registry.do_request.__wrapped__, client)  # without its retries
    client.auth = _Login(client)
    client.session.request = partial(client.session.request, timeout=(_CONNECT_SECONDS, _READ_SECONDS))
    client.session.headers["Accept-Encoding"] = "identity"  # digests are of the bytes as they are stored
    if plain:
        client.session.trust_env = False  # no proxy leads to this machine's own loopback
    return client


class _Login(oras.auth.TokenAuth):  # type: ignore[misc]
    """Tokens, and the name and password itself for registries that ask for no more: the client has each alone."""

    def __init__(self, client: Any) -> None:
        super().__init__()
        self.session, self.prefix, self._tls_verify = client.session, client.prefix, client.auth._tls_verify

    def authenticate_request(self, original: Any, headers: dict[str, str], refresh: bool = False) -> Any:
        if not original.headers.get("Www-Authenticate", "").lower().startswith("basic"):
            return super().authenticate_request(original, headers, refresh)
        known = getattr(self, "_basic_auth", None)
        return (headers | {"Authorization": f"Basic {known}"}, True) if known else (headers, False)


def _last_words(error: OSError) -> str:
    """The innermost reason of a chain of wrapped connection errors, in one line."""
    reason: BaseException = error
    while (inner := reason.__cause__ or reason.__context__) is not None:
        reason = inner
    return " ".join(str(reason).split()) or type(reason).__name__
