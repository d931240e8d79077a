"""uvicorn, quiet, with limits on how much and how long it listens."""

import asyncio
import ssl

from starlette.types import ASGIApp
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS = 64
HEADERS_BYTES = 16 * 1024
SILENT_S = 10.0
"""A connection without a whole request for so long is closed; an idle one that had one, sooner."""


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that gives up on whoever opens a connection and does not ask, or asks a byte at a time."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(transport)
        self._watch(self.cycle)

    def _watch(self, before: object) -> None:
        self.loop.call_later(SILENT_S, self._close_if_silent, before)

    def _close_if_silent(self, before: object) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is before and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()
        else:
            self._watch(self.cycle)


def make_server(app: ASGIApp, tls: ssl.SSLContext | None) -> Server:
    """A server for sockets that listen already; it takes no signals and writes no log."""
    return Server(
        Config(
            app,
            loop="asyncio",
            http=PatientProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",  # the application tells of its own errors
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=HEADERS_BYTES,
            ssl_context_factory=None if tls is None else lambda _config, _default: tls,
        )
    )
