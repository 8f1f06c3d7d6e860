"""The pages of the monitoring port: what is asked, and what that means as a status of HTTP."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

from cvmfsrepo.web import Page
from snapshotter.health import Heart
from snapshotter.metrics import Metrics

_TEXT = "text/plain; charset=utf-8"


def monitoring_pages(metrics: Metrics, heart: Heart) -> Mapping[str, Page]:
    """`/metrics` is always answered; `/healthz` is 200 while the daemon lives, whatever the repositories do; `/readyz`
    is 503 while one of them is away, and names it."""

    def measured(accept: str) -> tuple[HTTPStatus, str, bytes]:
        content_type, content = metrics.render(accept)
        return HTTPStatus.OK, content_type, content

    return {
        "/metrics": measured,
        "/healthz": lambda accept: _verdict(heart.dead()),
        "/readyz": lambda accept: _verdict(heart.unready()),
    }


def _verdict(problems: Sequence[str]) -> tuple[HTTPStatus, str, bytes]:
    status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
    return status, _TEXT, "".join(f"{line}\n" for line in problems or ["ok"]).encode(errors="backslashreplace")
