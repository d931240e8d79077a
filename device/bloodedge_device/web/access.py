"""Who may ask for what: the access token, sessions of browsers, waits after wrong tokens, and names of this machine."""

import hashlib
import hmac
import json
import secrets
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from os import stat_result
from pathlib import Path
from time import monotonic

from bloodedge.errors import UsageError, disk_errors, quoted
from bloodedge_device.settings.sections import LOOPBACK, WebSettings

TOKEN = "token.json"  # noqa: S105  # a file's name
"""In the state folder: salt and scrypt hash of the access token, never the token itself."""

SESSION_S = 12 * 3600.0
SESSIONS = 500
"""Sessions kept; the one longest unused goes first."""

FREE_FAILURES = 5
"""Wrong tokens from an address before it must wait, twice as long after each further one."""
LONGEST_WAIT_S = 900.0
TRIES_PER_MINUTE = 30
"""Tokens tried from all addresses together."""
ADDRESSES = 2000
"""Addresses remembered."""


def new_token(state: Path) -> str:
    """Make the state folder's access token in place of any before it, and give it this once; only its hash is kept.

    Sessions that began with an earlier token end. Raises BloodedgeError when the folder cannot be written.
    """
    token, salt = secrets.token_urlsafe(32), secrets.token_bytes(16)
    text = json.dumps({"salt": salt.hex(), "scrypt": _scrypt(token, salt).hex()})
    with disk_errors("the access token"):
        state.mkdir(parents=True, exist_ok=True)
        partial = state / f"{TOKEN}.partial"
        partial.unlink(missing_ok=True)
        partial.touch(mode=0o600, exist_ok=False)
        partial.write_text(text)
        partial.replace(state / TOKEN)
    return token


def has_token(state: Path) -> bool:
    """Whether an access token was made."""
    return (state / TOKEN).is_file()


def check_token(state: Path, token: str) -> bool:
    """Whether this is the state folder's access token; takes about 50 ms on purpose."""
    try:
        stored = json.loads((state / TOKEN).read_text())
        salt, expected = bytes.fromhex(stored["salt"]), bytes.fromhex(stored["scrypt"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return hmac.compare_digest(_scrypt(token, salt), expected)


def _scrypt(token: str, salt: bytes) -> bytes:
    """RFC 7914 with OWASP's parameters of 2023 at 16 MiB, which a small board has."""
    return hashlib.scrypt(token.encode("utf-8", "replace"), salt=salt, n=2**14, r=8, p=1)


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
            failures, until = self._failures.get(_network(address), (0, 0.0))
            self._tries = min(float(TRIES_PER_MINUTE), self._tries + (now - self._refilled_s) * TRIES_PER_MINUTE / 60)
            self._refilled_s = now
            wait = max(until - now, (1 - self._tries) * 60 / TRIES_PER_MINUTE)
            if wait > 0:
                return wait
            self._tries -= 1
            failures += 1
            over = failures - FREE_FAILURES
            until = now + min(LONGEST_WAIT_S, 2.0 ** min(over, 10)) if over >= 0 else 0.0
            self._failures[_network(address)] = (failures, until)
            self._failures.move_to_end(_network(address))
            while len(self._failures) > ADDRESSES:
                self._failures.popitem(last=False)
            return 0.0

    def succeeded(self, address: str) -> None:
        """Forget the address's wrong tokens."""
        with self._lock:
            self._failures.pop(_network(address), None)


def _network(address: str) -> str:
    """The address, or the /64 of an IPv6 one: whoever has one address of it has them all."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return f"{int(parsed) >> 64:x}::/64" if isinstance(parsed, IPv6Address) and not parsed.ipv4_mapped else str(parsed)


@dataclass(frozen=True)
class Session:
    """A browser's."""

    csrf: str
    """What its forms must carry."""
    signed_in: bool
    until_s: float
    """Monotonic seconds."""


class Sessions:
    """Browsers' sessions by the hash of their cookie, in memory only; safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        """Clock: monotonic seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()

    def begin(self, signed_in: bool) -> tuple[str, Session]:
        """A new session and its cookie's value."""
        cookie = secrets.token_urlsafe(32)
        session = Session(secrets.token_urlsafe(32), signed_in, self._clock() + SESSION_S)
        with self._lock:
            self._sessions[_digest(cookie)] = session
            while len(self._sessions) > SESSIONS:
                self._sessions.popitem(last=False)
        return cookie, session

    def find(self, cookie: str) -> Session | None:
        """The session of a cookie, unless it is over."""
        key = _digest(cookie)
        with self._lock:
            session = self._sessions.get(key)
            if session is None:
                return None
            if session.until_s <= self._clock():
                del self._sessions[key]
                return None
            self._sessions.move_to_end(key)
            return session

    def end(self, cookie: str) -> None:
        """Forget the session of a cookie."""
        with self._lock:
            self._sessions.pop(_digest(cookie), None)

    def end_all(self) -> None:
        """Forget every session."""
        with self._lock:
            self._sessions.clear()


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()


class Access:
    """The rules for requests that come over TCP."""

    def __init__(self, settings: WebSettings, state: Path, port: int, clock: Callable[[], float] = monotonic) -> None:
        """Port: the one listened on; clock: monotonic seconds."""
        self.state = state
        self.needs_login = not settings.is_local
        self.tls = settings.certificate is not None
        self.cookie = f"{'__Host-' if self.tls else ''}bloodedge-{port}"
        """Its name; browsers share cookies between a host's ports."""
        self.sessions = Sessions(clock)
        self.throttle = Throttle(clock)
        self._settings, self._port = settings, port
        self._machine = {name.lower() for name in (socket.gethostname(), f"{socket.gethostname()}.local")}
        self._proven: bytes | None = None
        self._token_seen = self._token_stamp()

    def is_own_name(self, host: str) -> bool:
        """Whether a request's Host header names this server; others are pages elsewhere that lead a browser here."""
        name, port = _host_and_port(host)
        if name in {own.lower() for own in self._settings.names}:
            return True
        if port != self._port and not (port is None and self._port == (443 if self.tls else 80)):
            return False
        if name in LOOPBACK or name == self._settings.host.lower():
            return True
        return self.needs_login and (name in self._machine or _is_address(name))

    def is_token(self, token: str, address: str) -> float | bool:
        """Whether a token is right, or the seconds that this address must wait before it may try again."""
        self._notice_new_token()
        if self._proven is not None and hmac.compare_digest(_digest(token), self._proven):
            return True
        if wait := self.throttle.begin(address):
            return wait
        if not check_token(self.state, token):
            return False
        self.throttle.succeeded(address)
        self._proven = _digest(token)
        return True

    def session(self, cookie: str) -> Session | None:
        """The browser's session; one without login counts only where none is needed."""
        self._notice_new_token()
        session = self.sessions.find(cookie)
        return session if session is not None and (session.signed_in or not self.needs_login) else None

    def _notice_new_token(self) -> None:
        stamp = self._token_stamp()
        if stamp != self._token_seen:
            self._token_seen, self._proven = stamp, None
            self.sessions.end_all()

    def _token_stamp(self) -> tuple[int, int] | None:
        try:
            found: stat_result = (self.state / TOKEN).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns


def _host_and_port(host: str) -> tuple[str, int | None]:
    """A Host header's name, without an IPv6 address's brackets, and port."""
    name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "")
    if port and not (port.isascii() and port.isdigit() and len(port) <= 5):
        return "", None
    return name.removeprefix("[").removesuffix("]").lower().removesuffix("."), int(port) if port else None


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def require_token(settings: WebSettings, state: Path) -> None:
    """Refuse, with UsageError, to serve other machines before an access token was made."""
    if not settings.is_local and not has_token(state):
        raise UsageError(
            f"The page at {settings.host} would be open to other machines without an access token; make one with:"
            f" bloodedge device token --state {quoted(state)}"
        )


@dataclass
class Caller:
    """Who asks; stands in the request's scope as ``caller``."""

    actor: str
    """For the audit log: page, api or command line."""
    session: Session | None = None
    access: Access | None = None
    """None for the command line."""
    cookie: str | None = None
    """The session's, where one was sent."""

    @property
    def csrf(self) -> str:
        """What forms must carry."""
        return self.session.csrf if self.session else ""

    @property
    def signed_in(self) -> bool:
        """Whether there is a login to end."""
        return self.session is not None and self.session.signed_in


def session_cookie(access: Access, value: str, lasting_s: float = SESSION_S) -> str:
    """The Set-Cookie header of a session; 0 seconds to end it."""
    secure = "; Secure" if access.tls else ""
    return f"{access.cookie}={value}; Path=/; Max-Age={lasting_s:.0f}; HttpOnly; SameSite=Strict{secure}"
