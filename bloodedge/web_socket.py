"""The device's and the fleet's page: the socket it listens on, its TLS and its URL."""

import errno
import resource
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from bloodedge.errors import UsageError
from bloodedge.web_access import network_of

SPARE = 8
"""Connections beyond the most: they are told to try again, or are being closed."""

KEPT_FREE = 64
"""The process' last file descriptors, which no connection may take: the store and the camera need them."""

STARVED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
STARVED_S = 1.0
"""Without a descriptor nothing is accepted for so long; asyncio tries again as late."""


def server_tls(certificate: Path | None, key: Path | None, names: tuple[str, str]) -> ssl.SSLContext | None:
    """TLS with a certificate and its key, None without one; names: of the options, for UsageError."""
    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"{names[0]} {certificate} and {names[1]} {key} cannot be used ({error.strerror or error}); give a PEM"
            " certificate and the key that belongs to it."
        ) from error
    return context


def listen(host: str, port: int, names: tuple[str, str]) -> socket.socket:
    """A socket that listens; names: of the options for host and port, for UsageError."""
    no_address = f"{names[0]} {host} is not an address of this machine; correct it."
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise UsageError(no_address) from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        reasons = {
            errno.EADDRINUSE: f"Port {port} of {host} is in use; stop what uses it, or choose another with {names[1]}.",
            errno.EACCES: f"Port {port} of {host} needs root rights; choose one above 1023 with {names[1]}.",
            errno.EADDRNOTAVAIL: no_address,
        }
        other = f"{host} port {port} cannot be listened on ({error.strerror}); change {names[0]}."
        raise UsageError(reasons.get(error.errno or 0, other)) from error
    return listening


def url_of(host: str, listening: socket.socket, *, tls: bool) -> str:
    """The URL of a listening socket; host: as people gave it."""
    name = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{name}:{listening.getsockname()[1]}/"


class Connection(socket.socket):
    """An accepted connection."""

    def __init__(self, accepted: socket.socket, network: str, on_close: Callable[["Connection"], None]) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, accepted.detach())
        self.network = network
        self.is_busy: Callable[[], bool] = _never
        """Whether a request is being answered."""
        self.abort: Callable[[], None] | None = None
        """Of its transport; None before the TLS handshake is done."""
        self.hung_up_s: float | None = None
        self._on_close = on_close

    def hang_up(self) -> None:
        """End it, whatever is under way; asyncio closes it a moment later."""
        self.hung_up_s = monotonic()
        if self.abort is not None:
            self.abort()
        else:
            with suppress(OSError):
                self.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it; it counts no longer, and refers to nothing of its server."""
        self._on_close(self)
        self.is_busy, self.abort, self._on_close = _never, None, _nothing
        super().close()


def _never() -> bool:
    return False


def _nothing(_: Connection) -> None:
    pass


class CappedListener(socket.socket):
    """A listening socket with at most so many connections, counted from the moment that they are accepted.

    A further client takes the place of one that asks for nothing, of the network with the most connections, oldest
    first; where all are being answered, of a network that has more of them than the client's own.
    """

    def __init__(
        self,
        listening: socket.socket,
        most: int,
        connections: dict[int, Connection],
        on_accept: Callable[[Connection], object],
    ) -> None:
        """Share ``listening``'s address.

        connections: those open by their descriptors, oldest first; on_accept is called with each.
        """
        super().__init__(listening.family, listening.type, listening.proto, listening.dup().detach())
        self._most, self._connections, self._on_accept = most, connections, on_accept
        self._starved_until_s = 0.0

    def accept(self) -> tuple[socket.socket, Any]:
        """As socket.accept; raises ConnectionAbortedError for a client that finds no place."""
        if monotonic() < self._starved_until_s or (self._is_full and self._is_making_place):
            raise BlockingIOError
        try:
            accepted, address = super().accept()
        except OSError as error:
            if error.errno in STARVED:  # asyncio would log this as often as clients wait
                self._starved_until_s = monotonic() + STARVED_S / 2
            raise
        network = network_of(address[0]) if isinstance(address, tuple) else ""
        lacks_descriptors = accepted.fileno() >= _descriptors() - KEPT_FREE
        if lacks_descriptors:
            self._make_place(network)  # for who comes next
        if lacks_descriptors or not self._has_place(network):
            accepted.close()
            raise ConnectionAbortedError
        connection = Connection(accepted, network, self._forget)
        self._connections[connection.fileno()] = connection
        self._on_accept(connection)
        return connection, address

    @property
    def _is_full(self) -> bool:
        return len(self._connections) >= self._most + SPARE

    @property
    def _is_making_place(self) -> bool:
        since_s = monotonic() - STARVED_S
        return any(one.hung_up_s is not None and one.hung_up_s > since_s for one in self._connections.values())

    def _has_place(self, network: str) -> bool:
        if len(self._connections) < self._most:
            return True
        self._make_place(network)
        return not self._is_full

    def _make_place(self, network: str) -> None:
        counts = Counter(connection.network for connection in self._connections.values())
        left = [one for one in self._connections.values() if one.hung_up_s is None]
        among = [one for one in left if not one.is_busy()]
        among = among or [one for one in left if counts[one.network] > counts[network] + 1]
        if among:
            max(among, key=lambda one: counts[one.network]).hang_up()  # of equals the oldest

    def _forget(self, connection: Connection) -> None:
        with suppress(OSError):
            if self._connections.get(connection.fileno()) is connection:
                del self._connections[connection.fileno()]


def _descriptors() -> int:
    """How many descriptors this process may have open."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 2**31 if soft == resource.RLIM_INFINITY else soft
