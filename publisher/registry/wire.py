"""HTTP as it is spoken to one registry: the only file that imports requests.

Used of it are sessions, whose connections are kept, and its streams. Not used: ~/.netrc, cookies, and its redirects,
for ours never lead from TLS to plain HTTP and take no login to another host. Certificates are checked against the
system's store, as other container tools do, and not against the list that comes with requests.
"""

import contextlib
import ipaddress
import os
import ssl
from collections.abc import Mapping
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies

Response = requests.Response

_CONNECT_SECONDS, _READ_SECONDS = 15, 120
_REDIRECTS = 5
_CONNECTIONS = 64
"""Kept open to one registry: as many as threads may ask at a time."""
_DRAINED = 64 << 10
_MOVED = (301, 302, 303, 307, 308)


class RefusedRedirectError(OSError):
    """A registry sends us where we do not go."""


class Wire:
    """One registry's connections. Safe from several threads: after it is made nothing of the session changes."""

    def __init__(self, ca: str, proxy: str) -> None:
        self._session = _Unled()
        self._session.trust_env = False
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        self._session.headers["Accept-Encoding"] = "identity"  # digests are of the bytes as they are stored
        self._session.headers["User-Agent"] = "cvmfs-publisher"
        self._session.mount("http://", HTTPAdapter(pool_maxsize=_CONNECTIONS))
        self._session.mount("https://", _SystemTrust(ca))
        self._proxy = proxy

    def ask(self, method: str, url: str, headers: Mapping[str, str], authorization: str | None) -> Response:
        """The answer of the last of a few redirects, its body not read. OSError where there is none."""
        for _ in range(_REDIRECTS):
            given = {**headers, "Authorization": authorization} if authorization else dict(headers)
            response = self._answer(method, url, given)
            target = response.headers.get("Location") if response.status_code in _MOVED else None
            if target is None:
                return response
            finish(response)
            if not _same_origin(url, target := _redirected(url, target)):
                authorization = None
            url = target
        raise RefusedRedirectError(f"more than {_REDIRECTS} redirects, the last to {urlsplit(url).netloc}")

    def post(self, url: str, headers: Mapping[str, str], form: Mapping[str, str]) -> Response:
        """The answer to a form, which goes nowhere else: no redirect is followed."""
        return self._answer("POST", url, headers, form)

    def _answer(
        self, method: str, url: str, headers: Mapping[str, str], form: Mapping[str, str] | None = None
    ) -> Response:
        try:
            return self._session.request(
                method, url, headers=dict(headers), data=form, stream=True, allow_redirects=False,
                timeout=(_CONNECT_SECONDS, _READ_SECONDS), proxies=self._proxies(url),
            )  # fmt: skip
        except ValueError as error:  # an address that others wrote
            raise RefusedRedirectError(f"{url[:200]!r} cannot be asked: {error}") from error

    def close(self) -> None:
        self._session.close()

    def _proxies(self, url: str) -> dict[str, str]:
        """No proxy leads to this machine's own loopback."""
        if self._proxy:
            return {"http": self._proxy, "https": self._proxy}
        return {} if is_loopback(urlsplit(url).netloc) else get_environ_proxies(url)


def finish(response: Response) -> None:
    """Reads the little that is left, so that the connection can be used again, and ends the answer."""
    left = _DRAINED
    try:
        for chunk in response.iter_content(_DRAINED):
            left -= len(chunk)
            if left <= 0:
                break
    except OSError:  # nobody wants the rest
        pass
    response.close()


def interrupt(response: Response) -> None:
    """Ends the connection under a read of another thread, which `close` would wait for."""
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # it has ended by itself
        response.raw.shutdown()


def read_whole(response: Response, limit: int) -> bytes | None:
    """The body, or None where it is larger than `limit` bytes; the answer is ended."""
    content = bytearray()
    try:
        for chunk in response.iter_content(_DRAINED):
            content += chunk
            if len(content) > limit:
                return None
        return bytes(content)
    finally:
        response.close()


def is_dropped(error: OSError) -> bool:
    """Whether a connection was there and is gone, as one is that was kept for too long: the next one may hold."""
    reason: BaseException | None = error
    while reason is not None:
        if isinstance(reason, ConnectionResetError | BrokenPipeError):
            return True
        reason = reason.__cause__ or reason.__context__
    return False


def is_unreachable(error: OSError) -> bool:
    """Whether there was no connection at all, rather than no answer."""
    return isinstance(error, requests.ConnectionError)


def is_from(response: Response, url: str) -> bool:
    """Whether what was asked gave the answer, and not a host that it led to."""
    return _same_origin(url, response.url)


def is_loopback(registry: str) -> bool:
    """Whether a registry is this machine's own: such speak plain HTTP, as for other clients."""
    host = registry.rpartition(":")[0] if registry.rpartition(":")[2].isdigit() else registry
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def scheme_of(address: str) -> str:
    """Of an address as others wrote it; "" where it is none."""
    try:
        found = urlsplit(address)
        return found.scheme if found.hostname and found.port != 0 else ""
    except ValueError:
        return ""


def _same_origin(one: str, other: str) -> bool:
    first, second = urlsplit(one), urlsplit(other)
    return (first.scheme, first.hostname, first.port) == (second.scheme, second.hostname, second.port)


def _redirected(url: str, target: str) -> str:
    """Where a redirect leads, if it is followed."""
    try:
        address = urljoin(url, target)
    except ValueError:
        address = ""
    before, after = scheme_of(url), scheme_of(address)
    if after not in ("http", "https") or (before, after) == ("https", "http"):
        raise RefusedRedirectError(f"a redirect from {before} to {target[:200]!r} is not followed")
    return address


class _Unled(requests.Session):
    """Leads nowhere by itself: to find out where it might, requests reads whole bodies and trusts addresses."""

    def get_redirect_target(self, resp: Response) -> str | None:
        return None


class _SystemTrust(HTTPAdapter):
    """TLS with the system's authorities, and one more."""

    def __init__(self, ca: str) -> None:
        self._context = _trusting(ca)
        super().__init__(pool_maxsize=_CONNECTIONS)

    def build_connection_pool_key_attributes(
        self, request: Any, verify: Any, cert: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """How requests lets a session's TLS be chosen, with or without a proxy between."""
        host, pool = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {**pool, "ssl_context": self._context}

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """The context knows all; nothing is added to it for each connection."""
        conn.cert_reqs = "CERT_REQUIRED"


def _trusting(ca: str) -> ssl.SSLContext:
    """Read anew for each, for certificates are renewed while `watch` runs. The list of requests only where the system
    has none."""
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if not any(path and os.path.exists(path) for path in (paths.cafile, paths.capath)):
        context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
    if ca:
        context.load_verify_locations(ca)
    return context
