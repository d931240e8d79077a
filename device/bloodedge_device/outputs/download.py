"""Downloads a file over HTTP: limited in size and time, and broken off at once on request.

http.client and not httpx: to break off a read, another thread has to shut the socket down, which httpx hides.
"""

import hashlib
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from bloodedge.errors import BloodedgeError

ANSWER_WITHIN_S = 20.0
SLOWEST_BYTES_PER_S = 20_000
"""A slower download is cut off and starts again."""


class Temporary(Exception):  # noqa: N818  # it says what is
    """A problem that may pass; the message is a sentence."""


class Cancelled(Exception):  # noqa: N818  # it says what happened
    """Nobody wants the file any more."""


class Download:
    """One file; ``cancel``, from any thread, breaks it off."""

    def __init__(self, url: str, size_bytes: int, ca: Path | None) -> None:
        """ca: certificates (PEM) that the server's is checked against, default the system's."""
        self._url, self._size, self._ca = url, size_bytes, ca
        self._socket: socket.socket | None = None
        self._stopped: Exception | None = None
        """Why the connection was cut."""

    def cancel(self) -> None:
        """Have ``into`` raise Cancelled."""
        self._cut(Cancelled())

    def into(self, file: IO[bytes]) -> str:
        """Write what the server sends; gives its SHA-256.

        Follows no redirect and uses no proxy. Plain HTTP will do: whoever changes the bundle breaks its signature.
        Raises Temporary, Cancelled, BloodedgeError for what will never work, and OSError when the file cannot be
        written.
        """
        too_slow = Temporary(f"{self._url} sends the bundle too slowly; the download starts again.")
        late = threading.Timer(ANSWER_WITHIN_S + self._size / SLOWEST_BYTES_PER_S, self._cut, [too_slow])
        late.daemon = True
        late.start()
        try:
            with closing(self._connection()) as connection:
                return self._read(self._answer(connection), file)
        finally:
            late.cancel()

    def _connection(self) -> http.client.HTTPConnection:
        try:
            split = urlsplit(self._url)
            host, port = split.hostname or "", split.port
            (host or self._url).encode("idna")
        except ValueError as error:
            raise self._no_address() from error
        if not host:
            raise self._no_address()
        if split.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=ANSWER_WITHIN_S)
        try:
            context = ssl.create_default_context(cafile=self._ca)
        except (OSError, ssl.SSLError) as error:
            raise Temporary(f"mqtt.ca {self._ca} cannot be used ({error}); correct it.") from error
        return http.client.HTTPSConnection(host, port, timeout=ANSWER_WITHIN_S, context=context)

    def _no_address(self) -> BloodedgeError:
        return BloodedgeError(f"{self._url} is not the address of a file; correct --url.")

    def _answer(self, connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
        with self._failures():
            connection.connect()
            self._socket = connection.sock
            self._raise_if_stopped()
            connection.request("GET", urlsplit(self._url)._replace(scheme="", netloc="", fragment="").geturl() or "/")
            answer = connection.getresponse()
        if answer.status in range(300, 400):
            raise BloodedgeError(f"{self._url} redirects elsewhere, which is not followed; correct --url.")
        if answer.status != http.client.OK:
            raise Temporary(f"{self._url} answers {answer.status}; the download is tried again.")
        return answer

    def _read(self, answer: http.client.HTTPResponse, file: IO[bytes]) -> str:
        digest, left = hashlib.sha256(), self._size
        while True:
            with self._failures():
                chunk = answer.read1(min(65536, left + 1))  # as much as there is, so that a slow server is noticed
            if not chunk:
                break
            left -= len(chunk)
            if left < 0:
                raise BloodedgeError(f"{self._url} sends more than the {self._size} bytes announced.")
            digest.update(chunk)
            file.write(chunk)
        if left:
            self._raise_if_stopped()
            raise Temporary(f"{self._url} broke off before the end; the download starts again.")
        return digest.hexdigest()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn errors of the network into Temporary, except where the connection was cut on purpose."""
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            self._raise_if_stopped()
            raise Temporary(why_not_reached(self._url, error)) from error

    def _raise_if_stopped(self) -> None:
        if self._stopped is not None:
            raise self._stopped

    def _cut(self, why: Exception) -> None:
        self._stopped = self._stopped or why
        if self._socket is not None:
            with suppress(OSError):  # it has ended by itself
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # TCP's, also where TLS is read from meanwhile


def why_not_reached(url: str, error: Exception) -> str:
    """A sentence on a server that cannot be reached."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = f"its certificate is not trusted: {error.verify_message.rstrip('.')}; check mqtt.ca"
        return f"{url} cannot be reached ({why})."
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"{url} cannot be reached ({why.rstrip('.')}); it is tried again."
