"""Who may see the page: everybody on this machine; from elsewhere, only with the access token."""

import base64
import binascii
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from bloodedge import web_access
from bloodedge.errors import UsageError
from bloodedge.web_access import LOOPBACK, TOKEN, RefusedError, TokenCheck, bearer_token, check_token, host_and_port
from bloodedge_fleet.state_dir import command

OPEN = ("/bundles/", "/static/", "/healthz")
"""Anybody may read these: bundles are signed and no secret, and a client must know their SHA-256."""

HEADERS = {
    **web_access.HEADERS,
    "content-security-policy": (
        "default-src 'none'; img-src 'self'; style-src 'self'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    ),
}
"""Headers of every answer."""


def require_token(host: str, state: Path) -> bool:
    """Whether the page needs the access token.

    UsageError when other machines can reach it and there is no token, or when the stored token cannot be read.
    """
    try:
        check_token(state, "")
    except FileNotFoundError:
        if host in LOOPBACK:
            return False
        raise UsageError(
            f"Other machines could read the page at {host}, and there is no access token; make one with:"
            f" {command('token', state)}"
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{state / TOKEN} cannot be read; make another token with: {command('token', state)}"
        ) from error
    return True


class Guard:
    """Passes on the requests that are allowed."""

    def __init__(self, app: ASGIApp, host: str, tokens: TokenCheck | None) -> None:
        """tokens: None where everybody on this machine may read, under the machine's own names."""
        self._app, self._names, self._tokens = app, {*LOOPBACK, host}, tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        app = self._app
        try:
            if not scope["path"].startswith(OPEN):
                await self._check(scope)
        except RefusedError as refused:
            app = refusal(scope, refused)
        await app(scope, receive, send)

    async def _check(self, scope: Scope) -> None:
        """Raises RefusedError when the request is not allowed."""
        headers = Headers(scope=scope)
        if self._tokens is None:
            if host_and_port(headers.get("host", ""))[0] not in self._names:
                raise RefusedError(421, "This name is not one of this server's; ask by its address.")
            return
        token, address = _token(headers.get("authorization", "")), (scope.get("client") or ("",))[0]
        if not token or not await run_in_threadpool(self._tokens.is_right, token, address):
            raise RefusedError(
                401,
                "Give the access token as the password (any name will do), or as a Bearer token.",
                {"www-authenticate": 'Basic realm="bloodedge fleet", charset="UTF-8"'},
            )


def refusal(scope: Scope, refused: RefusedError) -> ASGIApp:
    """The answer to a refused request."""
    if scope["path"].startswith(("/api/", "/metrics")):
        return JSONResponse({"error": refused.sentence}, refused.status, refused.headers)
    return PlainTextResponse(refused.sentence + "\n", refused.status, refused.headers)


def _token(authorization: str) -> str:
    """The token of a Bearer or Basic Authorization header; empty where there is none."""
    kind, _, value = authorization.partition(" ")
    if kind.lower() != "basic":
        return bearer_token(authorization) or ""
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
