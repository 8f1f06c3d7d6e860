"""Programs that keep logins for docker and podman (`docker-credential-NAME`): asked as docker asks them.

What goes wrong with one is a warning, and the registry is asked without a login: most images need none.
"""

import logging
import re
import subprocess

import msgspec

from publisher.registry.login import Login

log = logging.getLogger(__name__)

_SECONDS = 30
_IDENTITY = "<token>"
"""The name of whoever is known by an identity token."""
_NAME = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)


class _Answer(msgspec.Struct, rename="pascal"):
    username: str
    secret: str


_decode = msgspec.json.Decoder(_Answer).decode


def ask_program(name: str, server: str) -> Login | None:
    """The login for a server, or None where the program knows none or cannot be asked."""
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
    return Login(identity=login.secret) if login.username == _IDENTITY else Login.of(login.username, login.secret)
