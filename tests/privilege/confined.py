"""The daemon with less than root's privileges."""

import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from tests.snapshotter.daemon import Daemon

NOBODY = 65534

# A program that becomes another user once everything is imported: that user need not be able to read this Python.
_AS_NOBODY = f"""
import encodings.idna, tomllib, tomllib._parser, traceback, snapshotter.server, snapshotter.cli.main
import ctypes, os
os.setgroups([])
os.setresgid(*[{NOBODY}] * 3)
os.setresuid(*[{NOBODY}] * 3)
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
snapshotter.cli.main.main()
"""

# Root of a user namespace of its own, as in a rootless engine: ids 0 to 65535 are FIRST_ID and up outside.
FIRST_ID = 100_000
_IN_USER_NAMESPACE = f"""
import encodings.idna, tomllib, tomllib._parser, traceback, snapshotter.server, snapshotter.cli.main
import ctypes, os
pid, (made, make) = os.getpid(), os.pipe()
if os.fork() == 0:  # stays outside, where it may write the map
    os.read(made, 1)
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{{pid}}/{{name}}", "w") as file:
            file.write("0 {FIRST_ID} 65536")
    os._exit(0)
ctypes.CDLL(None).unshare(0x10000000)  # CLONE_NEWUSER
os.write(make, b".")
os.wait()
os.setgroups([])
os.setresgid(0, 0, 0)
os.setresuid(0, 0, 0)
snapshotter.cli.main.main()
"""


class Confined(Daemon):
    """As root with no capabilities but those named, which no program that it starts can get back."""

    def __init__(self, root: Path, capabilities: Collection[str], **config: object) -> None:
        super().__init__(root, **config)
        self._capabilities = capabilities

    def command(self) -> Sequence[str]:
        allowed = ",".join(["-all", *(f"+{name}" for name in sorted(self._capabilities))])
        confined = ("setpriv", "--bounding-set", allowed, "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs")
        return (*confined, *super().command())


class Unprivileged(Daemon):
    """As another user without any capability, on a state directory of its own."""

    program, owner = _AS_NOBODY, NOBODY

    def __init__(self, root: Path, **config: object) -> None:
        super().__init__(root, **config)
        root.mkdir(0o700, exist_ok=True)
        os.chown(root, self.owner, self.owner)
        os.chown(self.log.parent, self.owner, self.owner)

    def command(self) -> Sequence[str]:
        return (sys.executable, "-c", self.program, "serve", *self.arguments())


class InUserNamespace(Unprivileged):
    """As root of a user namespace, which is nobody outside."""

    program, owner = _IN_USER_NAMESPACE, FIRST_ID


def privileges(pid: int) -> dict[str, str]:
    """What the kernel says of a process: effective, bounding set (hexadecimal) and so on."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
