"""Blobs and manifests of an image in a registry, over the oras client: the only file that touches it.

The client does tokens, credential helpers and redirects. Two things of it are not used: its manifests are parsed, and
we need the bytes that the digest is of; and it retries for two minutes before it says that nobody listens. A registry
that is busy is asked again a few times (`patience.py`), and a blob that breaks off is asked for from there on.
"""

import io
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, cast

import oras.auth
import oras.provider

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError, DataLoss, NotFound, PermissionDenied, Unavailable
from cvmfsrepo.oci import INDEX_TYPES, MANIFEST_TYPES, Descriptor, Reference
from publisher.registry.credentials import find_login
from publisher.registry.patience import USUAL, Patience, Throttled, asked_for, is_passing
from publisher.unpacking.stream import CHUNK

_MANIFEST_LIMIT = 8 << 20
_CONNECT_SECONDS, _READ_SECONDS = 15, 120
ACCEPT = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))
_DOCKER_HUB = "registry-1.docker.io"
_RESUMES = 5
"""Times that one blob may break off."""
_wait = time.sleep


class RegistryBlobs:
    """The blobs of one image's repository. `plain` is HTTP without TLS."""

    def __init__(self, reference: Reference, plain: bool, patience: Patience = USUAL) -> None:
        self._reference, self._patience = reference, patience
        host = _DOCKER_HUB if reference.registry == "docker.io" else reference.registry
        scheme = "http" if plain else "https"
        self._base = f"{scheme}://{host}/v2/{reference.repository}"
        self._client = _client(host, plain)
        login = find_login(reference.registry, reference.repository, os.environ, Path.home())
        if login is not None:
            self._client.auth._basic_auth = login
            return
        with self._told():  # credential helpers are its business
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
        path, name = f"blobs/{descriptor.digest}", str(descriptor.digest)
        with self._get(path, "blob", name, partial(self._resumed, path)) as body:
            yield body

    def find_digest(self) -> Digest:
        """What the reference's tag means now, by one HEAD request, or the manifest where that says nothing of use."""
        if self._reference.digest:
            return self._reference.digest
        tag = str(self._reference.tag)
        response = self._request(f"manifests/{tag}", "HEAD")
        try:
            if response.status_code == 200 and (said := response.headers.get("Docker-Content-Digest")):
                return Digest.parse(said, "digest of the registry")
            if response.status_code not in (200, 405, 501):
                raise self._refusal(response, "manifest", tag)
        finally:
            response.close()
        return Digest.of(self.read_manifest(None))

    @contextmanager
    def _get(
        self, path: str, thing: str, name: str, resume: "Callable[[int], Any] | None" = None
    ) -> Iterator[io.RawIOBase]:
        response = self._request(path)
        if response.status_code != 200:
            response.close()
            raise self._refusal(response, thing, name)
        with closing(_Body(response, self._lost, resume)) as body:
            yield body

    def _resumed(self, path: str, offset: int) -> Any:
        """A response with the rest of a blob, or None where the registry does not give it."""
        response = self._request(path, headers={"Range": f"bytes={offset}-"})
        if response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            return response
        response.close()
        return None

    def _request(self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> Any:
        """The answer, after as many tries as patience allows where it is a passing one."""
        tried = 0
        while True:
            response, tried = self._asked(path, method, dict(headers or {})), tried + 1
            if not is_passing(response.status_code):
                return response
            delay = self._patience.delay(tried, asked_for(response.headers.get("Retry-After")))
            if delay is None:
                return response
            response.close()
            _wait(delay)

    def _asked(self, path: str, method: str, headers: dict[str, str]) -> Any:
        url, headers = f"{self._base}/{path}", {"Accept": ACCEPT, **headers}
        with self._told():
            response = self._client.do_request(url, method, headers=dict(headers), stream=True)
            if response.status_code == 401:  # the token may be older than a long publication
                response.close()
                self._client.auth.token = None
                response = self._client.do_request(url, method, headers=dict(headers), stream=True)
        return response

    def _refusal(self, response: Any, thing: str, name: str) -> ContractError:
        where, status = str(self._reference), f"{response.status_code} {response.reason}"
        if response.status_code == 404:
            problem = f"has no {thing} {name} ({status})"
            return NotFound("image", where, problem, "look at the name and the tag in the registry")
        if response.status_code in (401, 403):
            return self._denied(status)
        if response.status_code == 429:
            error = Throttled("image", where, f"cannot be read: the registry asks for patience ({status})", "try later")
            error.seconds = asked_for(response.headers.get("Retry-After")) or error.seconds
            return error
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
    """A response's content as a readable stream. Where the connection breaks, `resume` is asked for the rest; a
    connection that is broken for good is told by `lost`."""

    def __init__(
        self, response: Any, lost: Callable[[OSError], NoReturn], resume: "Callable[[int], Any] | None"
    ) -> None:
        super().__init__()
        self._response, self._lost, self._resume = response, lost, resume
        self._chunks, self._rest = response.iter_content(CHUNK), memoryview(b"")
        self._count = self._broken = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """At most one chunk of the response."""
        while not self._rest:
            try:
                chunk = next(self._chunks, None)
            except OSError as error:
                self._go_on(error)
                continue
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
            self._count += len(chunk)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        self._response.close()
        super().close()

    def _go_on(self, error: OSError) -> None:
        self._broken += 1
        rest = self._resume(self._count) if self._resume and self._broken <= _RESUMES else None
        if rest is None:
            self._lost(error)
        self._response.close()
        self._response, self._chunks = rest, rest.iter_content(CHUNK)


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
