"""Access to the device's and the fleet's page: token, waits after wrong tokens, host names, safe headers."""

import hashlib
import hmac
import json
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from bloodedge.errors import disk_errors
from bloodedge.files import make_private_folder, write_bytes

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "::1", "localhost")

TOKEN = "token.json"  # noqa: S105  # a file's name
"""In the state folder: SHA-256 of the access token, never the token itself. It is random and has 256 bits, so that no
slower hash is needed; older versions stored scrypt."""

FREE_FAILURES = 5
"""Wrong tokens from an address before it must wait, twice as long after each further one."""
LONGEST_WAIT_S = 900.0
TRIES_PER_MINUTE = 30
"""Tokens tried from all addresses together."""
ADDRESSES = 2000
"""Addresses remembered."""

HEADERS = {
    "x-content-type-options": "nosniff",
    # not no-referrer: with it browsers send "null" as the origin of forms, which then look forged
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
"""Headers of every answer; each page adds its content-security-policy."""


class RefusedError(Exception):
    """The request is refused with this HTTP status and sentence."""

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, sentence, headers or {}


def new_token(state: Path) -> str:
    """Replace the state folder's access token and return the new one; only its hash is stored.

    Raises BloodedgeError when the folder cannot be written.
    """
    token = secrets.token_urlsafe(32)
    stored = {"sha256": _digest(token).hex()}
    with disk_errors("the token"):
        make_private_folder(state)
    write_bytes(state / TOKEN, json.dumps(stored).encode(), mode=0o600)
    return token


def has_token(state: Path) -> bool:
    """Whether the state folder has an access token."""
    return (state / TOKEN).is_file()


def check_token(state: Path, token: str) -> bool:
    """Whether this is the state folder's access token; about 50 ms where an older version stored it.

    Raises OSError and ValueError when the stored token cannot be read.
    """
    stored = json.loads((state / TOKEN).read_bytes())
    try:
        if "sha256" in stored:
            return hmac.compare_digest(_digest(token), bytes.fromhex(stored["sha256"]))
        return hmac.compare_digest(_scrypt(token, bytes.fromhex(stored["salt"])), bytes.fromhex(stored["scrypt"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{TOKEN} is damaged") from error


def _scrypt(token: str, salt: bytes) -> bytes:
    """RFC 7914 with OWASP's parameters of 2023 at 16 MiB, which a small board has."""
    return hashlib.scrypt(token.encode("utf-8", "replace"), salt=salt, n=2**14, r=8, p=1)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()


class Throttle:
    """Waits after wrong tokens; safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        """Clock: monotonic seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._tries, self._refilled_s = float(TRIES_PER_MINUTE), clock()

    def begin(self, address: str) -> float:
        """Seconds that this address must wait; 0 when it may try now, which counts as wrong until ``succeeded``."""
        with self._lock:
            now = self._clock()
            failures, until = self._failures.get(network_of(address), (0, 0.0))
            self._tries = min(float(TRIES_PER_MINUTE), self._tries + (now - self._refilled_s) * TRIES_PER_MINUTE / 60)
            self._refilled_s = now
            wait = max(until - now, (1 - self._tries) * 60 / TRIES_PER_MINUTE)
            if wait > 0:
                return wait
            self._tries -= 1
            failures += 1
            over = failures - FREE_FAILURES
            until = now + min(LONGEST_WAIT_S, 2.0 ** min(over, 10)) if over >= 0 else 0.0
            self._failures[network_of(address)] = (failures, until)
            self._failures.move_to_end(network_of(address))
            while len(self._failures) > ADDRESSES:
                self._failures.popitem(last=False)
            return 0.0

    def succeeded(self, address: str) -> None:
        """Forget the address's wrong tokens."""
        with self._lock:
            self._failures.pop(network_of(address), None)


def network_of(address: str) -> str:
    """The address, or the /64 network of an IPv6 address: one client can use all addresses of it."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return f"{int(parsed) >> 64:x}::/64" if isinstance(parsed, IPv6Address) and not parsed.ipv4_mapped else str(parsed)


class TokenCheck:
    """Checks the tokens of requests against a state folder's token; safe to use from several threads."""

    def __init__(self, state: Path, clock: Callable[[], float] = monotonic) -> None:
        """Clock: monotonic seconds."""
        self._state = state
        self.throttle = Throttle(clock)
        self._accepted: tuple[object, bytes] = (None, b"")
        """Version and digest of the token accepted last, which is then neither slow nor throttled."""

    def version(self) -> object:
        """Changes when the stored token is replaced."""
        try:
            found = (self._state / TOKEN).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def _is_quickly_right(self, token: str) -> bool:
        """Whether the token is right, where that can be told without a slow hash."""
        try:
            quick = "sha256" in json.loads((self._state / TOKEN).read_bytes())
            return quick and check_token(self._state, token)
        except (OSError, ValueError, TypeError):
            return False

    def is_right(self, token: str, address: str) -> bool:
        """Whether the token is right; RefusedError (429) while this address must wait after wrong ones."""
        version, digest = self.version(), _digest(token)
        accepted, last = self._accepted
        if accepted == version and hmac.compare_digest(digest, last):
            return True
        if self._is_quickly_right(token):  # not throttled: others' wrong tokens lock nobody out
            self.throttle.succeeded(address)
            self._accepted = version, digest
            return True
        if wait_s := self.throttle.begin(address):
            seconds = max(1, round(wait_s + 0.5))
            sentence = f"Too many wrong tokens; wait {seconds} s and try again."
            raise RefusedError(429, sentence, {"retry-after": str(seconds)})
        try:
            right = check_token(self._state, token)
        except (OSError, ValueError):
            return False
        if right:
            self.throttle.succeeded(address)
            self._accepted = version, digest
        return right


def bearer_token(authorization: str) -> str | None:
    """The token of an Authorization header of kind Bearer."""
    kind, _, token = authorization.partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def host_and_port(host: str) -> tuple[str, int | None]:
    """A Host header's name in lower case, without an IPv6 address's brackets, and its port; ("", None) if malformed."""
    name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "")
    if port and not (port.isascii() and port.isdigit() and len(port) <= 5):
        return "", None
    return name.removeprefix("[").removesuffix("]").lower().removesuffix("."), int(port) if port else None


class SafeHeaders:
    """Adds headers to every answer that does not set them itself."""

    def __init__(self, app: "ASGIApp", headers: Mapping[str, str]) -> None:
        self._app = app
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer one request."""

        async def send_with_headers(message: "Message") -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(pair for pair in self._headers if pair[0] not in own)]
            await send(message)

        await self._app(scope, receive, send_with_headers)
