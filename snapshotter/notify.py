"""What systemd is told: sd_notify(3) in plain Python. Where no socket is named, which is without systemd, nothing.

The watchdog is fed by `snapshotter.health`, and only while the service answers.
"""

import os
import socket
import time
from collections.abc import Mapping
from typing import Self


class Notifier:
    """`address` is that of the datagram socket, "" for none; `watchdog` the seconds after which systemd takes a silent
    daemon for dead, 0.0 where it does not watch."""

    def __init__(self, address: str = "", watchdog: float = 0.0) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.watchdog = watchdog
        self._status = ""

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """As systemd says it to the process that it started."""
        microseconds = environment.get("WATCHDOG_USEC", "")
        is_ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watchdog = int(microseconds) / 1e6 if is_ours and microseconds.isdecimal() else 0.0
        return cls(environment.get("NOTIFY_SOCKET", ""), watchdog)

    def ready(self) -> None:
        """The start, or a reload, is over."""
        self._send("READY=1")

    def reloading(self) -> None:
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1", "STATUS=stopping; containers run on")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; said when it is another one."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={' '.join(text.split())}")

    def alive(self) -> None:
        """Feeds the watchdog."""
        if self.watchdog:
            self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        """A datagram that nobody takes is lost: the daemon serves all the same."""
        if not self._address:
            return
        message = "\n".join(lines).encode(errors="backslashreplace")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(1.0)
                sender.sendto(message, self._address)
        except OSError:
            pass
