"""What is posted -> an answer: who may, how much, and what is kept. 202 is said when the queue is on the disk."""

import hmac
import json
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from cvmfsrepo.errors import ContractError, FailedPrecondition, InvalidArgument, PermissionDenied, ResourceExhausted
from cvmfsrepo.web import Answer, Posted
from publisher.listening.queue import Queue
from publisher.listening.webhooks import Allowed, Notice, parse_webhook

LIMIT = 1 << 20
"""Bytes of a body."""
_SECRET_LIMIT = 4096
_BEARER = "Bearer "


def read_secret(path: Path) -> str:
    """A shared secret, without the space around it. FailedPrecondition where everybody may read it or it is none."""
    with path.open("rb") as file:
        if stat.S_IMODE(path.stat().st_mode) & stat.S_IRWXO:
            raise FailedPrecondition("secret", str(path), "may be read by everybody", f"chmod 600 {path}")
        secret = file.read(_SECRET_LIMIT + 1).decode(errors="replace").strip()
    if not secret or len(secret) > _SECRET_LIMIT or not secret.isprintable():
        raise FailedPrecondition("secret", str(path), "is not one line of text", "write one, such as of openssl rand")
    return secret


@dataclass(frozen=True, slots=True)
class Receiver:
    """`secret` is what the header Authorization has to hold, as it is or behind `Bearer`; without one everybody is
    believed. `registry` is used in place of the name in the body. `tell` says a line, `answered` counts a status."""

    queue: Queue
    allowed: Allowed
    secret: str | None
    registry: str = ""
    tell: Callable[[str], None] = print
    answered: Callable[[int], None] = lambda status: None

    def receive(self, posted: Posted) -> Answer:
        """The answer, as JSON; a refusal has its `reason`."""
        status, document = self._received(posted)
        self.answered(int(status))
        return status, "application/json", json.dumps(document).encode() + b"\n"

    def _received(self, posted: Posted) -> tuple[HTTPStatus, dict[str, object]]:
        if not self._is_known(posted.headers.get("authorization", "")):
            return _refused(HTTPStatus.UNAUTHORIZED, "the header Authorization does not hold the shared secret")
        if posted.length is None:
            return _refused(HTTPStatus.LENGTH_REQUIRED, "the header Content-Length is missing")
        if posted.length > LIMIT:
            return _refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body has at most {LIMIT} bytes")
        body = posted.read()
        if len(body) != posted.length:
            return _refused(HTTPStatus.BAD_REQUEST, f"the body ended after {len(body)} of {posted.length} bytes")
        try:
            notice = parse_webhook(body, self.allowed, time.time(), self.registry)
        except ContractError as error:
            status = HTTPStatus.FORBIDDEN if isinstance(error, PermissionDenied) else HTTPStatus.BAD_REQUEST
            return _refused(status, str(error))
        return self._keep(notice)

    def _is_known(self, header: str) -> bool:
        if self.secret is None:
            return True
        given = header.removeprefix(_BEARER) if not self.secret.startswith(_BEARER) else header
        return hmac.compare_digest(given.encode("latin-1", "replace"), self.secret.encode())  # the bytes of a header

    def _keep(self, notice: Notice) -> tuple[HTTPStatus, dict[str, object]]:
        try:
            for push in notice.pushes:
                self.queue.put(str(push.reference), push.at)
                self.tell(f"queued {push.reference}")
        except ResourceExhausted as error:
            return _refused(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        except OSError as error:
            reason = f"the queue cannot be written: {error.strerror}"
            self.tell(reason)
            return _refused(HTTPStatus.SERVICE_UNAVAILABLE, reason)
        for passed in notice.passed:
            self.tell(f"passed over {_printable(passed.name)}: {passed.reason}")
        queued = [str(push.reference) for push in notice.pushes]
        listed = [{"image": passed.name, "reason": passed.reason} for passed in notice.passed]
        return HTTPStatus.ACCEPTED if queued else HTTPStatus.OK, {"queued": queued, "passed_over": listed}


def check_door(host: str, is_loopback: bool, secret: str | None, no_secret: bool) -> None:
    """FailedPrecondition where strangers could reach a listener that knows no secret."""
    if secret is None and not (is_loopback or no_secret):
        remedy = "give --secret-file FILE, or --no-secret where something else keeps strangers away"
        raise FailedPrecondition("address", host, "can be reached from elsewhere, and there is no secret", remedy)
    if secret is not None and no_secret:
        raise InvalidArgument("secret", "--no-secret", "stands beside --secret-file", "give one of the two")


def _refused(status: HTTPStatus, reason: str) -> tuple[HTTPStatus, dict[str, object]]:
    return status, {"reason": reason}


def _printable(text: str) -> str:
    """A stranger's words in one line."""
    return repr(text if len(text) <= 300 else f"{text[:280]}...")
