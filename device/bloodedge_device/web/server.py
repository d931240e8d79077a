"""Serves the page over TCP and the command line over a Unix socket, in one thread of the daemon."""

import logging
import os
import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bloodedge.errors import UsageError, disk_errors
from bloodedge.web_socket import listen, server_tls, url_of
from bloodedge_device.settings.sections import WebSettings
from bloodedge_device.web.access import Access, require_token
from bloodedge_device.web.client import SOCKET, short_path
from bloodedge_device.web.desk import Desk

if TYPE_CHECKING:
    from uvicorn import Server

log = logging.getLogger("bloodedge.device")

STOP_S = 5.0
CONNECTIONS = 64
"""At the same time."""

FIRST_INHERITED = 3
"""SD_LISTEN_FDS_START."""


class WebServer:
    """Answers browsers, programs and the command line until it is stopped."""

    def __init__(self, desk: Desk, settings: WebSettings, state: Path) -> None:
        self._desk, self._settings, self._state = desk, settings, state
        self._thread: threading.Thread | None = None
        self._servers: list[Server] = []
        self._ready = threading.Event()
        self._url = ""

    @property
    def url(self) -> str:
        """Where the page is; empty before ``start`` and when only the command line is served."""
        return self._url

    def start(self) -> None:
        """Listen, and answer from a thread of its own; the libraries for it are loaded there.

        Raises UsageError when the port is taken, the address is not this machine's, the certificate cannot be used, or
        other machines could ask and no access token was made.
        """
        settings = self._settings
        tls = server_tls(settings.certificate, settings.key, ("web.certificate", "web.key"))
        inherited = _inherited_socket() if self._settings.enabled else None
        if inherited is not None:
            self._settings = _with_address_of(self._settings, inherited)
        sockets = [_control_socket(self._state)]
        try:
            if self._settings.enabled:
                require_token(self._settings, self._state)
                settings = self._settings
                sockets.append(inherited or listen(settings.host, settings.port, ("web.host", "--port")))
        except BaseException:
            sockets[0].close()
            (self._state / SOCKET).unlink(missing_ok=True)
            raise
        if self._settings.enabled:
            self._url = url_of(self._settings.host, sockets[1], tls=tls is not None)
            if not self._settings.is_local and tls is None:
                log.warning("%s is not encrypted: others on the network can read the token.", self._url)
        self._thread = threading.Thread(target=self._run, args=(sockets, tls), name="web", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop answering; waits a few seconds for what is being answered."""
        if self._thread is None:
            return
        self._ready.wait(STOP_S)
        for server in self._servers:
            server.should_exit = True
        self._thread.join(STOP_S)
        self._thread = None
        with suppress(OSError):
            (self._state / SOCKET).unlink()

    def _run(self, sockets: list[socket.socket], tls: ssl.SSLContext | None) -> None:
        import asyncio

        from bloodedge.web_server import make_server
        from bloodedge_device.web.app import make_app
        from bloodedge_device.web.request_checks import HEADERS, refusal

        self._servers = [make_server(make_app(self._desk, None), HEADERS, refusal, None, CONNECTIONS)]
        if len(sockets) > 1:
            access = Access(self._settings, self._state, sockets[1].getsockname()[1])
            self._servers.append(make_server(make_app(self._desk, access), HEADERS, refusal, tls, CONNECTIONS))
        self._ready.set()

        async def serve() -> None:
            pairs = zip(self._servers, sockets, strict=True)
            await asyncio.gather(*(server.serve([listening]) for server, listening in pairs))

        asyncio.run(serve())


def _control_socket(state: Path) -> socket.socket:
    """The command line's socket; only the daemon's user may open it. Its name is there once it listens."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with disk_errors(SOCKET):
        unheard = state / f"{SOCKET}.new"
        unheard.unlink(missing_ok=True)
        os.fchmod(listening.fileno(), 0o600)  # before it has a name: Linux makes the file with these permissions
        with short_path(state) as path:
            listening.bind(f"{path}.new")
        listening.listen(16)
        unheard.replace(state / SOCKET)
    return listening


def _inherited_socket() -> socket.socket | None:
    """The socket that systemd listens on for this process, by sd_listen_fds(3); None where it passes none."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS", "0") == "0":
        return None
    number = os.environ["LISTEN_FDS"]
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    try:
        inherited = socket.socket(fileno=FIRST_INHERITED)
    except OSError as error:
        raise UsageError("The service manager passes what is not a socket; correct the .socket unit.") from error
    inherited.set_inheritable(False)
    if number != "1" or inherited.family not in {socket.AF_INET, socket.AF_INET6}:
        inherited.close()
        raise UsageError("The page takes one TCP address from the service manager; correct the .socket unit.")
    return inherited


def _with_address_of(settings: WebSettings, inherited: socket.socket) -> WebSettings:
    """The settings with the inherited socket's address, which decides whether a token is needed."""
    host, port = inherited.getsockname()[:2]
    if (settings.host, settings.port) != (host, port):
        log.warning("The service manager listens on %s port %d; web.host and web.port are ignored.", host, port)
    return settings.model_copy(update={"host": host, "port": port})
