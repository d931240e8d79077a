"""Who may look: on this machine everybody, from elsewhere whoever has the access token, over HTTP Basic or Bearer."""

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bloodedge.errors import UsageError
from bloodedge.files import write_bytes
from bloodedge_fleet.state_dir import command

TOKEN = "token.json"  # noqa: S105  # a file's name
"""In the state folder: SHA-256 of the token. It has 256 random bits, so that nothing slower is needed to guard it."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")
OPEN = ("/bundles/", "/static/", "/healthz")
"""Anybody may read these: bundles are signed and no secret, and whoever asks has to know their digest."""

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; img-src 'self'; style-src 'self'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def new_token(state: Path) -> str:
    """Make an access token in place of any before it, and give it this once; only its digest is kept."""
    token = secrets.token_urlsafe(32)
    write_bytes(state / TOKEN, json.dumps({"sha256": _digest(token)}).encode(), mode=0o600)
    return token


def token_digest(state: Path) -> str | None:
    """Of the state folder's token; None where none was made. UsageError when its file cannot be read."""
    path = state / TOKEN
    try:
        return str(json.loads(path.read_bytes())["sha256"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} cannot be read; make another token with: {command('token', state)}") from error


def require_token(host: str, state: Path) -> str | None:
    """The token's digest; UsageError where others could look and no token was made."""
    digest = token_digest(state)
    if digest is None and host not in LOOPBACK:
        raise UsageError(
            f"Other machines could look at {host}, and there is no access token; make one with:"
            f" {command('token', state)}"
        )
    return digest


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


class Guard:
    """Lets nobody in without the token where there is one, and puts HEADERS on every answer."""

    def __init__(self, app: ASGIApp, digest: str | None, host: str) -> None:
        """digest: of the token; None: everybody on this machine may look, by one of its own names."""
        self._app, self._digest = app, digest
        self._names = {*LOOPBACK, "[::1]", host}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        app = self._refusal(scope) or self._app
        await app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        headers = Headers(scope=scope)
        if scope["path"].startswith(OPEN):
            return None
        if self._digest is None:
            name = headers.get("host", "").rpartition(":")[0] or headers.get("host", "")
            if name.lower() not in self._names:  # another site's name for this machine
                return _refused(scope, 421, "This name is not one of this server's; ask by its address.")
            return None
        if hmac.compare_digest(_digest(_token_of(headers)), self._digest):
            return None
        why = "Give the access token as the password (any name will do), or as a Bearer token."
        challenge = {"www-authenticate": 'Basic realm="bloodedge fleet", charset="UTF-8"'}
        return _refused(scope, 401, why, challenge)


def _refused(scope: Scope, status: int, sentence: str, headers: dict[str, str] | None = None) -> ASGIApp:
    if scope["path"].startswith(("/api/", "/metrics")):
        return JSONResponse({"error": sentence}, status, headers)
    return PlainTextResponse(sentence + "\n", status, headers)


def _token_of(headers: Headers) -> str:
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""
