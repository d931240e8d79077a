"""Every address that the daemon serves, and how errors are answered."""

import hashlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.resources import files

from starlette.applications import Starlette
from starlette.convertors import CONVERTOR_TYPES, Convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.web_access import RefusedError, SafeHeaders
from bloodedge_device.web import api, kind_pages, openapi, pages, review_pages, teach
from bloodedge_device.web.access import Access
from bloodedge_device.web.desk import Desk
from bloodedge_device.web.request_checks import HEADERS, Guard, LocalOperator
from bloodedge_device.web.responses import SENTENCES, as_json, error_response
from bloodedge_device.web.worker_threads import Work

log = logging.getLogger("bloodedge.device")

STATIC = {
    "page.css": "text/css",
    "live.js": "text/javascript",
    "review.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}


class _Id(Convertor[int]):
    """A database's id: no sign, no leading zero, never too large for SQLite."""

    regex = "[1-9][0-9]{0,15}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


CONVERTOR_TYPES["id"] = _Id()  # Starlette's table for this process, read when routes are made


def make_app(desk: Desk, access: Access | None) -> ASGIApp:
    """The application: over TCP with the rules of ``access``, for the command line without (None)."""
    kinds = (HTTPException, RefusedError, UsageError, BloodedgeError, Exception)
    inner = Starlette(routes=_routes(Work(desk)), exception_handlers=dict.fromkeys(kinds, _failed))
    inner.router.redirect_slashes = False
    return SafeHeaders(LocalOperator(inner) if access is None else Guard(inner, access), HEADERS)


def _routes(work: Work) -> list[Route]:
    get, post, patch = ["GET"], ["POST"], ["PATCH"]
    asked = [
        ("/", get, pages.live),
        ("/slides", get, pages.slides),
        ("/slides", post, pages.start_slide),
        ("/slides/end", post, pages.end_slide),
        ("/slides/{slide:id}", get, pages.slide),
        ("/slides/{slide:id}/label", post, pages.label_slide),
        ("/slides/{slide:id}/kinds", get, kind_pages.kinds),
        ("/slides/{slide:id}/kinds", post, kind_pages.reclassify),
        ("/slides/{slide:id}/report", get, pages.report),
        ("/slides/{slide:id}/export.{kind}", get, pages.download),
        ("/review/{slide:id}", get, review_pages.review),
        ("/review/{slide:id}/result", get, review_pages.result),
        ("/review/{slide:id}/{cell:id}", post, review_pages.answer),
        ("/teach", get, teach.overview),
        ("/teach/review", get, teach.review),
        ("/teach/review/{cell:id}", post, teach.answer),
        ("/health", get, pages.health),
        ("/login", get, pages.login),
        ("/login", post, pages.sign_in),
        ("/logout", post, pages.sign_out),
        ("/live/{frame:id}.jpg", get, api.picture),
        ("/api/v1/slides", get, api.slides),
        ("/api/v1/slides", post, api.start_slide),
        ("/api/v1/slides/current/end", post, api.end_slide),
        ("/api/v1/slides/{slide:id}", get, api.slide),
        ("/api/v1/slides/{slide:id}", patch, api.label_slide),
        ("/api/v1/slides/{slide:id}/cells", get, api.cells),
        ("/api/v1/cells.zip", get, api.cells_zip),
        ("/api/v1/cells/{cell:id}/review", post, api.review),
        ("/api/v1/cells/{cell:id}/crop", get, api.crop),
        ("/metrics", get, api.metrics),
    ]
    probes = [("/healthz", api.healthz), ("/readyz", api.readyz)]
    waiting = [("/live/view", pages.view), ("/api/v1/status", api.status)]
    return [
        *(Route(path, partial(handler, work)) for path, handler in waiting),
        *(Route(path, work.endpoint(handler), methods=methods) for path, methods, handler in asked),
        *(Route(path, work.endpoint(handler, probe=True), methods=get) for path, handler in probes),
        Route("/api/v1/openapi.json", _description),
        *_static_routes(),
    ]


async def _description(_: Request) -> Response:
    return as_json(openapi.description())


def _static_routes() -> list[Route]:
    folder = files("bloodedge_device.web").joinpath("static")
    contents = {name: (folder.joinpath(name).read_bytes(), kind) for name, kind in STATIC.items()}
    family = files("bloodedge.report").joinpath("templates", "style.css").read_bytes()
    contents["report.css"] = (family, "text/css")
    made = [Route(f"/static/{name}", _file(data, kind)) for name, (data, kind) in contents.items()]
    return [*made, Route("/favicon.ico", _file(*contents["icon.svg"]))]


def _file(data: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'

    async def send(request: Request) -> Response:
        headers = {"etag": tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(data, media_type=kind, headers=headers)

    return send


async def _failed(request: Request, error: Exception) -> Response:
    """The answer to an error: one sentence."""
    answer = partial(error_response, request.url.path)
    match error:
        case HTTPException(detail=detail, status_code=status, headers=headers):
            own = detail if detail.endswith((".", ")")) else SENTENCES.get(status, f"{detail}.")
            return answer(status, own, headers)
        case RefusedError():
            return answer(error.status, error.sentence, error.headers)
        case UsageError():
            return answer(400, str(error))
        case BloodedgeError():
            log.warning("A request failed: %s", error)
            return answer(503, str(error), {"retry-after": "5"})
    log.error("A request for %s failed.", request.url.path, exc_info=error)
    return answer(500, "The device failed; its journal says why.")
