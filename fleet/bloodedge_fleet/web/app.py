"""The addresses that the server answers."""

import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from bloodedge.errors import BloodedgeError
from bloodedge.report import environment
from bloodedge.web_access import SafeHeaders, TokenCheck
from bloodedge_fleet.boards.listener import Listener
from bloodedge_fleet.boards.overview import describe, each_board, read_boards, read_hours, read_page, read_refusals
from bloodedge_fleet.database import reading
from bloodedge_fleet.database.kept_file import KeptFile
from bloodedge_fleet.metrics import CONTENT_TYPE, Figures
from bloodedge_fleet.rollouts.overview import count_states, newest_names, read_rollout_views
from bloodedge_fleet.rollouts.store import bundle_file
from bloodedge_fleet.web.access import HEADERS, Guard
from bloodedge_fleet.web.trends import Trend, trends

log = logging.getLogger("bloodedge.fleet")

TREND = timedelta(days=2)
AHEAD = timedelta(hours=1)
"""Reports dated further in the future, by a board's clock, are in no chart."""

ROLLOUTS_SHOWN = 10
STYLES = {
    "report.css": ("bloodedge.report", "templates/style.css"),
    "page.css": ("bloodedge_fleet.web", "static/page.css"),
}
SENTENCES = {404: "There is nothing at this address; check it.", 405: "This page only shows and changes nothing."}
DIGEST = re.compile(r"[0-9a-f]{64}")
NUMBER = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class Site:
    """What the pages show."""

    engine: Engine
    state: Path
    listener: Listener
    figures: Figures
    silent: timedelta
    """A board without a report for so long is silent."""
    kept: KeptFile | None = None
    """Of a SQLite database."""

    @property
    def broken(self) -> dict[str, str]:
        """What is wrong with the server itself: a sentence by part."""
        broker = self.listener.broker
        states = {
            "broker": "" if broker.connected else broker.state,
            "database": self.listener.worker.state or ("" if self.kept is None else self.kept.state),
        }
        return {part: sentence for part, sentence in states.items() if sentence}

    @property
    def troubles(self) -> list[str]:
        """Problems of the server itself, in sentences."""
        return list(self.broken.values())


def make_app(site: Site, host: str, *, needs_token: bool = False) -> ASGIApp:
    """The pages and bundles, for those whom ``Guard`` lets in."""
    pages = _Pages(site)
    routes = [
        Route("/", pages.boards),
        Route("/boards/{name}", pages.board),
        Route("/rollouts", pages.rollouts),
        Route("/rollouts/{name}", pages.rollout),
        Route("/metrics", pages.metrics),
        Route("/healthz", pages.healthz),
        Route("/bundles/{digest}", pages.bundle),
        Route("/static/{name}", _static),
    ]
    kinds = (HTTPException, BloodedgeError, Exception)
    inner = Starlette(routes=routes, exception_handlers=dict.fromkeys(kinds, _failed))
    guarded = Guard(inner, host, TokenCheck(site.state) if needs_token else None)
    return SafeHeaders(guarded, HEADERS)


class _Pages:
    """The answers; Starlette runs those that are not ``async`` in threads, because they read the database."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def boards(self, request: Request) -> Response:
        number = request.query_params.get("page", "1")
        if not NUMBER.fullmatch(number):
            raise HTTPException(404, "There is no such page of boards.")
        with reading(self._site.engine) as connection:
            shown = read_page(connection, self._site.silent, int(number))
            refusals = read_refusals(connection)
        return self._html("boards.html", shown=shown, boards=shown.boards, refusals=refusals)

    def board(self, request: Request) -> Response:
        name = request.path_params["name"]
        now = datetime.now(UTC)
        with reading(self._site.engine) as connection:
            board = next(iter(read_boards(connection, self._site.silent, now, [name])), None)
            hours = read_hours(connection, name, now - TREND, now + AHEAD)
        if board is None:
            raise HTTPException(404, "No board of this name has reported.")
        baseline = None if board.report is None else board.report.bundle.baseline
        shown: list[Trend] = trends(hours, None if baseline is None else baseline.latency_ms.p50)
        return self._html("board.html", board=board, trends=shown)

    def rollouts(self, _: Request) -> Response:
        with reading(self._site.engine) as connection:
            number = sum(count_states(connection).values())
            found = read_rollout_views(connection, self._site.silent, among=newest_names(connection, ROLLOUTS_SHOWN))
        return self._html("rollouts.html", rollouts=found, number=number)

    def rollout(self, request: Request) -> Response:
        name = request.path_params["name"]
        with reading(self._site.engine) as connection:
            found = read_rollout_views(connection, self._site.silent, among=[name])
        if not found:
            raise HTTPException(404, "There is no roll-out of this name.")
        return self._html("rollout.html", view=found[0])

    def metrics(self, _: Request) -> Response:
        site = self._site
        with reading(site.engine) as connection:
            boards = each_board(connection, site.silent)
            text = site.figures.exposition(boards, count_states(connection), site.listener)
        return Response(text, media_type=CONTENT_TYPE)

    async def healthz(self, _: Request) -> Response:
        """Anybody may ask: what is away is told, and not where it is."""
        troubles = [f"The {name} does not answer; the page says more." for name in self._site.broken]
        return JSONResponse({"ok": not troubles, "troubles": troubles}, 503 if troubles else 200)

    async def bundle(self, request: Request) -> Response:
        """An offered bundle, by its SHA-256."""
        digest = request.path_params["digest"]
        path = bundle_file(self._site.state, digest)
        if not DIGEST.fullmatch(digest) or not path.is_file():
            raise HTTPException(404, "This bundle is not offered.")
        return FileResponse(path, media_type="application/zip")

    def _html(self, template: str, **values: Any) -> Response:
        page = environment("bloodedge_fleet.web").get_template(template)
        now = datetime.now(UTC)
        return HTMLResponse(page.render(now=now, describe=describe, troubles=self._site.troubles, **values))


def _error(status: int, sentence: str) -> Response:
    page = environment("bloodedge_fleet.web").get_template("error.html")
    return HTMLResponse(page.render(status=status, sentence=sentence, troubles=[]), status)


async def _failed(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        own = error.detail if error.detail.endswith(".") else SENTENCES.get(error.status_code, f"{error.detail}.")
        return _error(error.status_code, own)
    if isinstance(error, BloodedgeError):
        return _error(503, str(error))
    log.error("A request for %s failed.", request.url.path, exc_info=error)
    return _error(500, "The server failed; its journal says why.")


async def _static(request: Request) -> Response:
    style = STYLES.get(request.path_params["name"])
    if style is None:
        raise HTTPException(404)
    return Response(files(style[0]).joinpath(style[1]).read_bytes(), media_type="text/css")
