"""Answers: pages from templates, errors as one sentence, JSON for programs."""

from collections.abc import Mapping
from typing import Any

import jinja2
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from bloodedge.report import environment as templates
from bloodedge_device.web.access import Caller, session_cookie

PROGRAMS = ("/api/", "/live/", "/metrics", "/healthz", "/readyz")
"""Paths whose errors are JSON."""

SENTENCES = {
    404: "There is nothing at this address; check it.",
    405: "This address does not allow this method.",
}


def environment() -> jinja2.Environment:
    """The pages' templates; every value is escaped."""
    return templates("bloodedge_device.web")


def caller_of(request: Request) -> Caller:
    """Who asks."""
    caller: Caller = request.scope["caller"]
    return caller


def html(request: Request, template: str, **values: Any) -> Response:
    """A page; a caller who needs no login gets a session for its forms."""
    caller = caller_of(request)
    headers = {}
    if caller.session is None and caller.access is not None and not caller.access.needs_login:
        cookie, caller.session = caller.access.sessions.begin(signed_in=False)
        headers["set-cookie"] = session_cookie(caller.access, cookie)
    text = environment().get_template(template).render(caller=caller, path=request.url.path, **values)
    return HTMLResponse(text, headers=headers)


def as_json(value: BaseModel | dict[str, Any], status: int = 200) -> Response:
    """A JSON answer."""
    if isinstance(value, BaseModel):
        return Response(value.model_dump_json(), status, media_type="application/json")
    return JSONResponse(value, status)


def error_response(path: str, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error as a page, or as JSON where programs ask."""
    if path.startswith(PROGRAMS):
        return JSONResponse({"error": sentence}, status, headers)
    text = environment().get_template("error.html").render(caller=None, path=path, status=status, sentence=sentence)
    return HTMLResponse(text, status, headers)


def redirect(path: str) -> Response:
    """Redirect to a page, also after a form."""
    return RedirectResponse(path, 303)
