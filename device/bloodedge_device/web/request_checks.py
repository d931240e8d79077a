"""Checks applied to every request: host name, login, forgery, size and time; and the headers of every answer."""

import asyncio
import hmac
import re
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from anyio import to_thread
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from bloodedge import web_access
from bloodedge.web_access import RefusedError, bearer_token
from bloodedge_device.web.access import Access, Caller
from bloodedge_device.web.responses import error_response, redirect

MOST_BODY = 64 * 1024
BODY_S = 10.0
"""A request's body must arrive within so many seconds."""

SAFE = ("GET", "HEAD", "OPTIONS")
OPEN = ("/static/", "/healthz", "/readyz", "/login", "/favicon.ico")
"""Paths that anybody may read."""

LINKED = re.compile(r"/|/slides(/\d+)?|/review/\d+(/result)?|/health|/login")
"""Pages that another site may link to: they cost little and leave no trace."""

HEADERS = {
    **web_access.HEADERS,
    "content-security-policy": (
        "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
}
"""Headers of every answer."""


class LocalOperator:
    """Lets requests of the command line through; the socket's permissions are the login."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        await _pass_on(self._app, self._caller, scope, receive, send)

    async def _caller(self, _body: bytes) -> Caller:
        return Caller("command line")


class Guard:
    """Lets requests over TCP through that ``access`` allows."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        await _pass_on(self._app, lambda body: self._caller(scope, body), scope, receive, send)

    async def _caller(self, scope: Scope, body: bytes) -> Caller:
        """Who asks; RefusedError when that person or program may not."""
        headers, access = Headers(scope=scope), self._access
        if len(headers.getlist("host")) != 1 or not access.is_own_name(headers["host"]):
            raise RefusedError(
                421,
                "This name is not one of this device's; add it to web.names in the settings, or ask by its address.",
            )
        _refuse_embedding(headers, scope["path"], access)
        if (bearer := bearer_token(headers.get("authorization", ""))) is not None:
            await self._check_bearer(bearer, scope)
            return Caller("api", access=access)
        cookie = _cookie(headers, access.cookie)
        caller = Caller("page", access.session(cookie) if cookie else None, access, cookie)
        if scope["method"] in SAFE:
            if access.needs_login and caller.session is None and not scope["path"].startswith(OPEN):
                raise RefusedError(401, "Sign in, or send the access token as a Bearer token.")
            return caller
        _refuse_forged(headers, access)
        if scope["path"] != "/login":
            _refuse_without_csrf(caller, headers, body)
        return caller

    async def _check_bearer(self, token: str, scope: Scope) -> None:
        if not await to_thread.run_sync(self._access.is_token, token, address_of(scope)):
            raise RefusedError(401, "This access token is wrong; make one with: bloodedge device token")


def address_of(scope: Scope) -> str:
    """The address that a request came from."""
    client = scope.get("client")
    return client[0] if client else ""


async def _pass_on(app: ASGIApp, caller: Callable[[bytes], Any], scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        return
    try:
        body = b"" if scope["method"] in SAFE else await _read_body(scope, receive)
        scope["caller"], scope["body"] = await caller(body), body
    except RefusedError as refused:
        await refusal(scope, refused)(scope, receive, send)
        return
    await app(scope, receive, send)


def refusal(scope: Scope, refused: RefusedError) -> ASGIApp:
    """The answer to a refused request."""
    path = scope["path"]
    if refused.status == 401 and not path.startswith(("/api/", "/live/", "/metrics")):
        return redirect("/login")
    headers = {**refused.headers, **({"www-authenticate": "Bearer"} if refused.status == 401 else {})}
    return error_response(path, refused.status, refused.sentence, headers)


async def _read_body(scope: Scope, receive: Receive) -> bytes:
    """The whole body; RefusedError when it is too large or too slow."""
    too_large = RefusedError(413, f"The request is larger than {MOST_BODY // 1024} KiB.", {"connection": "close"})
    length = Headers(scope=scope).get("content-length", "0")
    if not length.isdigit() or len(length) > 9 or int(length) > MOST_BODY:
        raise too_large
    body, more = b"", True
    try:
        async with asyncio.timeout(BODY_S):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RefusedError(400, "The request broke off.")
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > MOST_BODY:
                    raise too_large
    except TimeoutError:
        raise RefusedError(408, f"The request took longer than {BODY_S:.0f} s.", {"connection": "close"}) from None
    return body


def _cookie(headers: Headers, name: str) -> str | None:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return None
    return morsel.value if morsel else None


def _refuse_embedding(headers: Headers, path: str, access: Access) -> None:
    """Refuse another site's requests, and those of another port of this machine, except for a link to a page."""
    site = headers.get("sec-fetch-site")
    own = _may_be_own(headers, path, access) if site is None else site in {"same-origin", "none"}
    is_link = site is None or headers.get("sec-fetch-mode") == "navigate"
    if not own and not (is_link and LINKED.fullmatch(path)):
        raise RefusedError(403, "Another site asks for this; only the device's own pages may.")


def _may_be_own(headers: Headers, path: str, access: Access) -> bool:
    """Whether a request without Sec-Fetch-Site may come from an own page or a program.

    Browsers from before 2023 send none, and newer ones none without encryption. Another site can hide where a request
    comes from, but then it has no cookie.
    """
    source = headers.get("origin") or headers.get("referer")
    if source is not None:
        return _is_own_page(source, headers, access)
    is_program = not headers.get("user-agent", "").startswith("Mozilla/")
    return is_program or access.needs_login or path.startswith(OPEN)


def _is_own_page(source: str, headers: Headers, access: Access) -> bool:
    """Whether an Origin or a Referer is of this device's pages."""
    own = f"{'https' if access.tls else 'http'}://{headers['host']}/"
    return f"{source}/".lower().startswith(own.lower())


def _refuse_forged(headers: Headers, access: Access) -> None:
    """Refuse a browser's write that comes from another page, as far as the browser says."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if (origin is not None and not _is_own_page(origin, headers, access)) or (
        site is not None and site != "same-origin"
    ):
        raise RefusedError(403, "This request comes from another page; use the device's own.")


def _refuse_without_csrf(caller: Caller, headers: Headers, body: bytes) -> None:
    sent = headers.get("x-csrf-token") or form(headers, body).get("csrf", "")
    if caller.session is None or not hmac.compare_digest(sent.encode(), caller.session.csrf.encode()):
        raise RefusedError(
            403,
            "This page is out of date; reload it and try again (programs: send the access token as a Bearer token).",
        )


MOST_FIELDS = 64
"""Of a form: a page of cells to choose from, and a few more."""


def form(headers: Headers, body: bytes) -> dict[str, str]:
    """The fields of an HTML form; none when the body is something else or malformed."""
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        return {}
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        return {}
    return {name: values[-1] for name, values in fields.items()}


def fields_of(request: Request) -> dict[str, str]:
    """The fields of the form that a request carries."""
    return form(request.headers, request.scope["body"])
