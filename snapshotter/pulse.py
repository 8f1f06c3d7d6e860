"""Whether the snapshots service really answers: asked over its socket as containerd asks, through the same threads.

The question is the standard one, `grpc.health.v1.Health/Check`, so that other programs may ask it too. The answer takes
the database's turnstile and touches no repository.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc

_SERVICE, _METHOD = "grpc.health.v1.Health", "Check"
_SERVING = b"\x08\x01"
"""The message HealthCheckResponse{status: SERVING}."""

_SILENCE = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)


def health_service(look: Callable[[], object]) -> grpc.GenericRpcHandler:  # type: ignore[type-arg]  # generic in the stubs only
    """The service's side: `look()` does what every verb has to do; what it raises is the answer."""

    def check(request: bytes, context: grpc.ServicerContext) -> bytes:
        look()
        return _SERVING

    return grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: grpc.unary_unary_rpc_method_handler(check)})


class Pulse:
    """The asking side; a connection that is kept."""

    def __init__(self, address: Path) -> None:
        options = (("grpc.use_local_subchannel_pool", 1),)
        self._channel = grpc.insecure_channel(f"unix:{quote(os.fsencode(address))}", options=options)
        self._check: Any = self._channel.unary_unary(f"/{_SERVICE}/{_METHOD}", bytes, bytes)

    def ask(self, seconds: float) -> str:
        """Why there was no answer, or "". An error is an answer: a daemon that is started anew would give the same."""
        try:
            self._check(b"", timeout=seconds)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}" if error.code() in _SILENCE else ""
        except ValueError:  # gRPC's word for a channel that was closed meanwhile
            return "the connection is closed"
        return ""

    def close(self) -> None:
        self._channel.close()
