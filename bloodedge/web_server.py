"""The web server of device and fleet: uvicorn with limits on connections, sizes and times, without a log of its own."""

import asyncio
import json
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from bloodedge.web_access import RefusedError, SafeHeaders

Refuse = Callable[[Scope, RefusedError], ASGIApp]
"""The application that answers a refused request."""

HEADERS_BYTES = 16 * 1024
SILENT_S = 10.0
"""A connection without a whole request for so long is closed; one that is idle after a request, sooner."""

TRY_AGAIN_S = 5

MALFORMED = (
    f"The request is not HTTP/1.1, or its head is larger than {HEADERS_BYTES // 1024} KiB; correct what sends it."
)
BUSY = f"Too many requests at the same time; try again in {TRY_AGAIN_S} s."


class LimitedProtocol(H11Protocol):
    """HTTP/1.1 that closes connections which send nothing, or a byte at a time.

    Its own answers look like the application's: one sentence, with the headers that every answer carries.
    """

    def __init__(self, *args: Any, headers: Mapping[str, str], refuse: Refuse, most: int, **options: Any) -> None:
        """most: connections at the same time."""
        super().__init__(*args, **options)
        self._headers, self._refuse, self._most = headers, refuse, most
        self.app = partial(self._unless_busy, self.app)

    async def _unless_busy(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        if len(self.connections) >= self._most:
            refused = RefusedError(503, BUSY, {"retry-after": str(TRY_AGAIN_S), "connection": "close"})
            app = SafeHeaders(self._refuse(scope, refused), self._headers)
        await app(scope, receive, send)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # uvicorn's own words
        """Answer a malformed request, unless another answer is under way, and close the connection."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            body = json.dumps({"error": MALFORMED}).encode()
            own = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
            head = h11.Response(status_code=400, headers=list({**self._headers, **own}.items()), reason=b"Bad Request")
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
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


def make_server(
    app: ASGIApp, headers: Mapping[str, str], refuse: Refuse, tls: ssl.SSLContext | None, connections: int
) -> Server:
    """A server for sockets that listen already; it takes no signals and writes no log.

    headers: of every answer; refuse: answers what is refused; connections: most at the same time.
    """
    protocol: Any = partial(LimitedProtocol, headers=headers, refuse=refuse, most=connections)
    return Server(
        Config(
            app,
            loop="asyncio",
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",  # the application logs its own errors
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=HEADERS_BYTES,
            ssl_context_factory=None if tls is None else lambda _config, _default: tls,
        )
    )
