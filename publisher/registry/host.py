"""One registry or mirror, as a whole pass asks it: connections and tokens are kept, its limits are respected, and one
that asks to be left alone is left alone."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from publisher.registry import patience
from publisher.registry.errand import Errand
from publisher.registry.login import Login
from publisher.registry.patience import Pace, Patience, asked_for, is_passing
from publisher.registry.settings import RegistrySettings
from publisher.registry.tokens import Authority, Challenge, Token
from publisher.registry.wire import (
    Response,
    Wire,
    finish,
    is_dropped,
    is_from,
    is_loopback,
    is_unreachable,
    read_whole,
    scheme_of,
)

_DOCKER_HUB = "registry-1.docker.io"
_TOKEN_LIMIT = 1 << 20
_THROTTLED = 60.0
"""Seconds for which a registry is left alone that answered 429 and did not say for how long."""
_AWAY = 60.0
"""The same for one that cannot be reached: not every image waits for it."""
_WRONG = 3600.0
"""The same for a mirror that gave out what is not what its digest promises."""
_ASKED, _GONE = "asks to wait", "could not be reached and is left alone"
_FALSE = "gave out wrong bytes and is left alone"


@dataclass(frozen=True, slots=True)
class Query:
    """`path` is below /v2/, `repository` the one whose login is taken, `scope` what a token has to be for."""

    path: str
    repository: str
    scope: str
    method: str = "GET"


class Host:
    """`name` is as in references; `login` finds the login for one of its repositories. Where neither the settings nor
    `plain` say so, only a registry on this machine's loopback is spoken to without TLS. Safe from several threads."""

    def __init__(
        self,
        name: str,
        settings: RegistrySettings,
        plain: bool,
        login: Callable[[str], Login | None],
        patience: Patience,
    ) -> None:
        self.name, self._patience = name, patience
        plain = plain or is_loopback(name) if settings.plain_http is None else settings.plain_http
        self._base = f"{'http' if plain else 'https'}://{_DOCKER_HUB if name == 'docker.io' else name}"
        self._wire, self._pace = Wire(settings.ca, settings.proxy), Pace(settings.requests_per_second)
        self._authority = Authority(login)
        self._closed_until, self._why = 0.0, ""
        self.lacks_some = False
        """Whether it has been said of this mirror that it lacks an image."""

    @property
    def is_closed(self) -> bool:
        return self._closed_until > time.time()

    @property
    def left_alone_until(self) -> float:
        """Seconds since 1970, for the next pass too; 0 where it may be asked then."""
        return self._closed_until if self.is_closed and self._why in (_ASKED, _FALSE) else 0.0

    def leave_alone(self, until: float, why: str = _ASKED) -> None:
        """Nothing is asked of it until then; whoever wants something is told why."""
        if until > self._closed_until:
            self._closed_until, self._why = until, why

    def leave_for_a_while(self) -> None:
        """As one that cannot be reached."""
        self.leave_alone(time.time() + _AWAY, _GONE)

    def distrust(self) -> None:
        """As one that gave out wrong bytes."""
        self.leave_alone(time.time() + _WRONG, _FALSE)

    def close(self) -> None:
        self._wire.close()

    def ask(self, errand: Errand, query: Query, headers: Mapping[str, str]) -> Response:
        """The answer, its body not read: after as many tries as patience allows, and with a login or a token where one
        is wanted and there is one; a host that a redirect leads to is given neither, whatever it asks for. Throttled
        where the registry wants to be left alone, Unavailable where it is not to be reached, PermissionDenied where its
        token server gives nothing out."""
        url = f"{self._base}/v2/{query.path}"

        def fetch(challenge: Challenge, scope: str, login: Login | None) -> Token:
            return self._fetch(errand, challenge, scope, login)

        shown = self._authority.foresee(query.repository, query.scope, fetch)
        response = self._patiently(errand, lambda: self._wire.ask(query.method, url, headers, shown))
        if response.status_code != 401 or not is_from(response, url):
            return response
        finish(response)
        asked = response.headers.get("WWW-Authenticate", "")
        secret = self._authority.answer(asked, query.repository, query.scope, shown, fetch)
        if secret is None:
            return response
        return self._patiently(errand, lambda: self._wire.ask(query.method, url, headers, secret))

    def _fetch(self, errand: Errand, challenge: Challenge, scope: str, login: Login | None) -> Token:
        schemes = ("https",) if self._base.startswith("https:") else ("https", "http")
        if scheme_of(challenge.realm) not in schemes:
            raise errand.garbage(f"the address of a token server that is not asked, {challenge.realm[:200]!r}")
        wanted = {"service": challenge.service, "scope": scope} if challenge.service else {"scope": scope}
        response = self._patiently(errand, lambda: self._token_answer(challenge.realm, wanted, login))
        if response.status_code in (400, 401, 403, 404):
            finish(response)
            told = "to the login that is known" if login else "to somebody without a login"
            raise errand.denied(f"its token server answered {response.status_code} {told}")
        if response.status_code != 200:
            finish(response)
            raise errand.refused(response.status_code, response.reason, "token")
        token = Token.parse(self.read(errand, response, _TOKEN_LIMIT, "token"))
        if token is None:
            raise errand.garbage("something that is no token")
        return token

    def _token_answer(self, realm: str, wanted: dict[str, str], login: Login | None) -> Response:
        """An identity token is exchanged by POST, in OAuth 2's words; all others ask by GET."""
        accept = {"Accept": "application/json"}
        if login and login.identity:
            grant = {"grant_type": "refresh_token", "client_id": "cvmfs-publisher", "refresh_token": login.identity}
            return self._wire.post(realm, accept, {**wanted, **grant})
        url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(wanted)}"
        return self._wire.ask("GET", url, accept, login.authorization if login else None)

    def read(self, errand: Errand, response: Response, limit: int, what: str) -> bytes:
        """The whole body, which is not larger than so many bytes."""
        try:
            content = read_whole(response, limit)
        except OSError as error:
            raise errand.lost(error) from None
        if content is None:
            raise errand.garbage(f"a {what} of more than {limit} bytes")
        return content

    def _patiently(self, errand: Errand, ask: Callable[[], Response]) -> Response:
        """An answer that is final, as far as patience goes."""
        tried = 0
        while True:
            if self.is_closed:
                raise errand.closed(self._why, self._closed_until)
            self._pace.keep()
            response, tried = self._asked(errand, ask, tried), tried + 1
            if response is None:
                patience.wait(self._patience.delay(tried, None) or 0.0)
                continue
            if not is_passing(response.status_code):
                return response
            finish(response)
            asked = asked_for(response.headers.get("Retry-After"))
            delay = self._patience.delay(tried, asked)
            if delay is None and (asked or response.status_code == 429):
                self.leave_alone(time.time() + (asked or _THROTTLED))
                raise errand.closed(self._why, self._closed_until)
            if delay is None:
                return response
            patience.wait(delay)

    def _asked(self, errand: Errand, ask: Callable[[], Response], tried: int) -> Response | None:
        """None where the connection was dropped, and there may be another try."""
        try:
            return ask()
        except OSError as error:
            if is_dropped(error) and self._patience.delay(tried + 1, None) is not None:
                return None
            if is_unreachable(error):
                self.leave_for_a_while()
            raise errand.lost(error) from None
