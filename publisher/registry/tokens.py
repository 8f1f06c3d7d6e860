"""What a registry wants to see before it gives anything out: nothing, a login, or a token for what is asked for.

A token is kept until it ends, by what it is for, and several threads wait for one and the same. Source: the
distribution project's token specification.
"""

import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from publisher.registry.login import Login

_SECONDS = 60.0
"""For which a token is good that does not say for how long."""
_MARGIN = 0.9
"""Part of its life in which a token is used: clocks differ, and so do the ways of requests."""
_HEADER_LIMIT = 4096
_BEARER = re.compile(r"\bbearer\b", re.IGNORECASE)
_PARAMETER = re.compile(r'(\w+)\s*=\s*"([^"]*)"')


@dataclass(frozen=True, slots=True)
class Challenge:
    """Where tokens come from. `scope` is what the registry asked for, "" if it said nothing."""

    realm: str
    service: str
    scope: str


class _Grant(msgspec.Struct):
    token: str = ""
    access_token: str = ""
    expires_in: float | None = None


_decode = msgspec.json.Decoder(_Grant).decode


@dataclass(frozen=True, slots=True)
class Token:
    """`until` is of the monotonic clock."""

    text: str
    until: float

    @classmethod
    def parse(cls, content: bytes) -> "Token | None":
        """Of a token server's answer; None where it is none."""
        try:
            grant = _decode(content)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        text = grant.token or grant.access_token
        if not text or not text.isascii() or not text.isprintable():
            return None
        return cls(text, time.monotonic() + _MARGIN * (grant.expires_in or _SECONDS))


def parse_challenge(header: str) -> Challenge | None:
    """Of a WWW-Authenticate header; None where it asks for no token."""
    scheme = _BEARER.search(header[:_HEADER_LIMIT])
    found = dict[str, str](_PARAMETER.findall(header[:_HEADER_LIMIT], scheme.end())) if scheme else {}
    if not found.get("realm"):
        return None
    return Challenge(found["realm"], found.get("service", ""), found.get("scope", ""))


Fetch = Callable[[Challenge, str, Login | None], Token]
"""Brings a token for a challenge, a scope and a login; raises what a registry's errors are."""


@dataclass(slots=True)
class Authority:
    """The logins and tokens of one registry. `login` finds the login for one of its repositories. Safe from several
    threads."""

    login: Callable[[str], Login | None]
    _challenge: Challenge | None = None
    _basic: bool = False
    _tokens: dict[str, Token] = field(default_factory=dict)
    _locks: defaultdict[str, threading.Lock] = field(default_factory=lambda: defaultdict(threading.Lock))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def foresee(self, repository: str, scope: str, fetch: Fetch) -> str | None:
        """What to show at once, by what was learned from earlier answers."""
        if self._basic:
            return self._shown_login(repository)
        return self._token(self._challenge, repository, scope, None, fetch) if self._challenge else None

    def answer(self, header: str, repository: str, scope: str, shown: str | None, fetch: Fetch) -> str | None:
        """What to show after a 401 with this header, which was the answer to `shown`. None where there is nothing
        else."""
        if challenge := parse_challenge(header):
            self._challenge = Challenge(challenge.realm, challenge.service, "")
            return self._token(challenge, repository, scope, shown, fetch)
        login = self._shown_login(repository) if header.lower().startswith("basic") else None
        if login is None or login == shown:
            return None
        self._basic = True
        return login

    def _shown_login(self, repository: str) -> str | None:
        found = self.login(repository)
        return found.authorization if found else None

    def _token(self, challenge: Challenge, repository: str, scope: str, shown: str | None, fetch: Fetch) -> str:
        """The one that is kept, unless it was just refused."""
        with self._lock:
            lock = self._locks[scope]
        with lock:
            kept = self._tokens.get(scope)
            if kept is None or kept.until < time.monotonic() or f"Bearer {kept.text}" == shown:
                kept = self._tokens[scope] = fetch(challenge, challenge.scope or scope, self.login(repository))
            return f"Bearer {kept.text}"
