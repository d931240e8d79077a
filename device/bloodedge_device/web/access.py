"""Who may use the page over TCP: sessions of browsers, the access token and this machine's names."""

import hashlib
import secrets
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from time import monotonic

from bloodedge.errors import UsageError, quoted
from bloodedge.web_access import LOOPBACK, TokenCheck, has_token, host_and_port
from bloodedge_device.settings.sections import WebSettings

SESSION_S = 12 * 3600.0
SESSIONS = 500
"""Sessions kept; the one longest unused goes first."""


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


REFUSED_EVERY_S = 600.0
"""At most one entry about refused logins within so many seconds: a stranger must not fill the audit log."""


class RefusedLogins:
    """Counts refused logins, for the audit log; safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        """Clock: monotonic seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._next_s = clock()
        self._tries = 0

    def count(self, address: str) -> dict[str, str | int] | None:
        """Count one; the details of an entry, where one is due."""
        with self._lock:
            self._tries += 1
            if self._clock() < self._next_s:
                return None
            tries, self._tries, self._next_s = self._tries, 0, self._clock() + REFUSED_EVERY_S
        return {"address": address, "since the last entry": tries} if tries > 1 else {"address": address}


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()


class Access:
    """The rules for requests that come over TCP."""

    def __init__(self, settings: WebSettings, state: Path, port: int, clock: Callable[[], float] = monotonic) -> None:
        """Port: the one listened on; clock: monotonic seconds."""
        self.needs_login = not settings.is_local
        self.tls = settings.certificate is not None
        self.cookie = f"{'__Host-' if self.tls else ''}bloodedge-{port}"
        """Its name; browsers share cookies between a host's ports."""
        self.sessions = Sessions(clock)
        self.tokens = TokenCheck(state, clock)
        self.refused = RefusedLogins(clock)
        self._settings, self._port = settings, port
        self._machine = {name.lower() for name in (socket.gethostname(), f"{socket.gethostname()}.local")}
        self._token_version = self.tokens.version()

    def is_own_name(self, host: str) -> bool:
        """Whether a request's Host header names this server; others are pages elsewhere that lead a browser here."""
        name, port = host_and_port(host)
        if name in {own.lower() for own in self._settings.names}:
            return True
        if port != self._port and not (port is None and self._port == (443 if self.tls else 80)):
            return False
        if name in LOOPBACK or name == self._settings.host.lower():
            return True
        return self.needs_login and (name in self._machine or _is_address(name))

    def is_token(self, token: str, address: str) -> bool:
        """Whether a token is right; RefusedError while this address must wait after wrong ones."""
        self._end_sessions_of_old_token()
        return self.tokens.is_right(token, address)

    def session(self, cookie: str) -> Session | None:
        """The browser's session; one without login counts only where none is needed."""
        self._end_sessions_of_old_token()
        session = self.sessions.find(cookie)
        return session if session is not None and (session.signed_in or not self.needs_login) else None

    def _end_sessions_of_old_token(self) -> None:
        version = self.tokens.version()
        if version != self._token_version:
            self._token_version = version
            self.sessions.end_all()


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
