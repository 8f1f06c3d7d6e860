"""Programs that keep logins for docker and podman (`docker-credential-NAME`): asked as docker asks them.

What goes wrong with one is a warning, and the registry is asked without a login: most images need none.
"""

import base64
import logging
import re
import subprocess

import msgspec

log = logging.getLogger(__name__)

_SECONDS = 30
_NAME = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)


class _Login(msgspec.Struct, rename="pascal"):
    username: str
    secret: str


_decode = msgspec.json.Decoder(_Login).decode


def ask_program(name: str, server: str) -> str | None:
    """`name:password` in base64 for a server, or None where the program knows none or cannot be asked."""
    program = f"docker-credential-{name}"
    if not _NAME.fullmatch(name):
        log.warning("credential helper %r: is no name of a program", name)
        return None
    try:
        done = subprocess.run([program, "get"], input=server.encode(), capture_output=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("%s: cannot be asked for the login of %s: %s", program, server, error)
        return None
    if done.returncode != 0:
        if b"not found" not in done.stdout:  # how they say that they know none
            log.warning("%s: gives no login of %s: %s", program, server, (done.stdout + done.stderr)[:300])
        return None
    try:
        login = _decode(done.stdout)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        log.warning("%s: answers nothing of use for %s: %s", program, server, error)
        return None
    return base64.b64encode(f"{login.username}:{login.secret}".encode()).decode()
