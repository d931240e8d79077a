"""The service manager's notification protocol, sd_notify(3): datagrams to its socket."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from time import CLOCK_MONOTONIC, clock_gettime_ns, monotonic

WATCHDOG_EVERY_S = 0.5

SEND_WITHIN_S = 1.0
"""A service manager that accepts no datagrams must not block the daemon."""


class Notifier:
    """Reports to the service manager; does nothing without one."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._socket: socket.socket | None = None
        if self._address is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.settimeout(SEND_WITHIN_S)
        self._watchdog_at_s = 0.0

    def ready(self) -> None:
        """The start or a reload has ended."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """The line that ``systemctl status`` shows."""
        self._send(f"STATUS={' '.join(text.split())}")

    def watchdog(self) -> None:
        """A sign of life, sent at most every WATCHDOG_EVERY_S seconds."""
        now = monotonic()
        if now >= self._watchdog_at_s:
            self._watchdog_at_s = now + WATCHDOG_EVERY_S
            self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """A reload has begun; ``ready`` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={clock_gettime_ns(CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The daemon is stopping."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if self._socket is not None and self._address is not None:
            with suppress(OSError):  # the daemon works on without a service manager
                self._socket.sendto(message.encode(), self._address)


def _address(name: str) -> str | None:
    """A socket's address; "@" stands for Linux's abstract namespace. None for any other name."""
    if name.startswith("@"):
        return "\0" + name[1:]
    return name if name.startswith("/") else None
