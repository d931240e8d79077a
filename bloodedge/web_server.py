"""The web server of device and fleet: uvicorn with limits on connections, sizes and times, without a log of its own."""

import asyncio
import json
import socket
import ssl
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from bloodedge.web_access import RefusedError, SafeHeaders
from bloodedge.web_socket import CappedListener, Connection

Refuse = Callable[[Scope, RefusedError], ASGIApp]
"""The application that answers a refused request."""

HEADERS_BYTES = 16 * 1024
SILENT_S = 10.0
"""A connection without a whole request for so long is closed, and one whose client takes nothing of an answer; one that
is idle after a request, sooner."""

TRY_AGAIN_S = 5

MALFORMED = (
    f"The request is not HTTP/1.1, or its head is larger than {HEADERS_BYTES // 1024} KiB; correct what sends it."
)
BUSY = f"Too many requests at the same time; try again in {TRY_AGAIN_S} s."


class LimitedProtocol(H11Protocol):
    """HTTP/1.1 that closes connections which send nothing, or a byte at a time, or take nothing of their answer.

    Its own answers look like the application's: one sentence, with the headers that every answer carries.
    """

    def __init__(
        self,
        *args: Any,
        headers: Mapping[str, str],
        refuse: Refuse,
        most: int,
        opened: Mapping[int, Connection],
        **options: Any,
    ) -> None:
        """most: connections at the same time; opened: those that are open, by descriptor."""
        super().__init__(*args, **options)
        self._headers, self._opened = headers, opened
        self._unsent = 0
        """Bytes that waited for the client at the last look; 0 where it took some since."""
        self._next_look: asyncio.TimerHandle | None = None
        self.app = partial(_unless_busy, self.app, self.connections, most, headers, refuse)

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
        connection = self._opened.get(transport.get_extra_info("socket").fileno())
        if connection is not None:
            connection.is_busy, connection.abort = lambda: not self._is_idle, transport.abort
        self._watch(self.cycle)

    def timeout_keep_alive_handler(self) -> None:
        """Nobody asked for anything more; the timer, which has run, refers to the connection and is let go."""
        super().timeout_keep_alive_handler()
        self.timeout_keep_alive_task = None

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed; nothing of it refers to itself, so that its memory is free at once."""
        super().connection_lost(exc)
        if self._next_look is not None:
            self._next_look.cancel()
        self.cycle = None  # type: ignore[assignment]  # as before the first request

    def resume_writing(self) -> None:
        """The client takes its answer."""
        super().resume_writing()
        self._unsent = 0

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _watch(self, before: object) -> None:
        self._next_look = self.loop.call_later(SILENT_S, self._look, before)

    def _look(self, before: object) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent == self._unsent and (unsent or self.transport.is_closing()):
            self.transport.abort()  # to close would wait until the client has taken everything
            return
        self._unsent = unsent
        if self.cycle is before and self._is_idle and not unsent:
            self.transport.close()
        self._watch(self.cycle)


async def _unless_busy(
    app: ASGIApp,
    connections: Collection[object],
    most: int,
    headers: Mapping[str, str],
    refuse: Refuse,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Pass a request on to the application while there are no more connections than ``most``."""
    if len(connections) > most:
        refused = RefusedError(503, BUSY, {"retry-after": str(TRY_AGAIN_S), "connection": "close"})
        app = SafeHeaders(refuse(scope, refused), headers)
    await app(scope, receive, send)


class LimitedServer(Server):
    """A server whose connections are counted from the moment that they are accepted."""

    def __init__(self, config: Config, most: int, opened: dict[int, Connection]) -> None:
        """opened: holds the open connections by their descriptors."""
        super().__init__(config)
        self._most, self._opened = most, opened

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, on sockets of the same addresses."""
        await super().startup([CappedListener(one, self._most, self._opened, _give_up_later) for one in sockets or []])


def _give_up_later(connection: Connection) -> None:
    """End a connection whose TLS handshake does not get done."""

    def give_up() -> None:
        if connection.abort is None:
            connection.hang_up()

    asyncio.get_running_loop().call_later(SILENT_S, give_up)


def make_server(
    app: ASGIApp, headers: Mapping[str, str], refuse: Refuse, tls: ssl.SSLContext | None, connections: int
) -> Server:
    """A server for sockets that listen already; it takes no signals and writes no log.

    headers: of every answer; refuse: answers what is refused; connections: most at the same time.
    """
    opened: dict[int, Connection] = {}
    protocol: Any = partial(LimitedProtocol, headers=headers, refuse=refuse, most=connections, opened=opened)
    return LimitedServer(
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
        ),
        connections,
        opened,
    )
