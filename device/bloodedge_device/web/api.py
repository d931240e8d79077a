"""The interface for programs: JSON below /api/v1, Prometheus' text, and what supervisors ask."""

import tempfile
from collections.abc import Iterator
from typing import IO, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from bloodedge_device.export.select import Wanted, select
from bloodedge_device.export.write import require_room, write_zip
from bloodedge_device.report.reading import read_report
from bloodedge_device.slide.review import Review
from bloodedge_device.store import queries
from bloodedge_device.web.desk import Desk
from bloodedge_device.web.models import (
    CellList,
    CellsQuery,
    ExportQuery,
    NewReview,
    ReviewReference,
    SlideLabel,
    SlideList,
    SlideReference,
    SlidesQuery,
    StatusQuery,
)
from bloodedge_device.web.responses import as_json, caller_of
from bloodedge_device.web.status import status_of
from bloodedge_device.web.worker_threads import Work, slide_or_404

Model = TypeVar("Model", bound=BaseModel)
PIECE_BYTES = 1 << 16


def query_of(request: Request, model: type[Model]) -> Model:
    """A request's query; 400 with a sentence when it is invalid."""
    try:
        return model.model_validate_strings(dict(request.query_params))
    except ValidationError as error:
        raise HTTPException(400, _sentence(error)) from error


def body_of(request: Request, model: type[Model]) -> Model:
    """A request's JSON; 400 with a sentence when it is invalid."""
    try:
        return model.model_validate_json(request.scope["body"])
    except ValidationError as error:
        raise HTTPException(400, _sentence(error)) from error


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}." if place else f"{first['msg']}."


async def status(work: Work, request: Request) -> Response:
    """The daemon at this moment, or at the next frame."""
    query = query_of(request, StatusQuery)
    await work.wait_for_frame(request, query.after, query.wait_s)
    return as_json(await work.run(lambda: status_of(work.desk.snapshot())))


def slides(desk: Desk, request: Request) -> Response:
    """Stored slides."""
    query = query_of(request, SlidesQuery)
    return as_json(SlideList(slides=queries.slides(desk.state, query.before, query.limit)))


def slide(desk: Desk, request: Request) -> Response:
    """One slide's report."""
    return as_json(read_report(desk.state, slide_or_404(desk, request).id).to_json())


def cells(desk: Desk, request: Request) -> Response:
    """A slide's cells."""
    query = query_of(request, CellsQuery)
    found = slide_or_404(desk, request)
    return as_json(CellList(cells=queries.cells(desk.state, found.id, query.after, query.limit)))


def start_slide(desk: Desk, request: Request) -> Response:
    """Begin a slide."""
    label = body_of(request, SlideLabel).label
    return as_json(SlideReference(slide=desk.start_slide(label, caller_of(request).actor)), 201)


def end_slide(desk: Desk, request: Request) -> Response:
    """End the current slide."""
    ended = desk.end_slide(caller_of(request).actor)
    if ended is None:
        raise HTTPException(409, "There is no current slide; start one first.")
    return as_json(SlideReference(slide=ended))


def label_slide(desk: Desk, request: Request) -> Response:
    """Give a slide another label."""
    label = body_of(request, SlideLabel).label
    found = slide_or_404(desk, request)
    desk.label_slide(found.id, label, caller_of(request).actor)
    return as_json(SlideReference(slide=found.id))


def review(desk: Desk, request: Request) -> Response:
    """Store what a person says of a cell."""
    answer = body_of(request, NewReview)
    said = Review.of(answer.label, answer.kind, answer.stage)
    cell: int = request.path_params["cell"]
    if queries.find_cell(desk.state, cell) is None:
        raise HTTPException(404, f"There is no cell {cell}.")
    desk.review(cell, said, answer.sampling, caller_of(request).actor)
    return as_json(ReviewReference(cell=cell, **vars(said)), 201)


def crop(desk: Desk, request: Request) -> Response:
    """A cell's image."""
    data = queries.crop(desk.state, request.path_params["cell"])
    if data is None:
        raise HTTPException(404, "There is no image of this cell, or it was removed to make room.")
    return Response(data, media_type="image/jpeg")


def cells_zip(desk: Desk, request: Request) -> Response:
    """Stored cells as a data set that ``train`` reads, as a ZIP archive."""
    query = query_of(request, ExportQuery)
    wanted = Wanted.of(reviewed=query.reviewed, slides=query.slides, since=query.since)
    file = tempfile.TemporaryFile(dir=desk.state)  # noqa: SIM115  # the answer closes it; it has no name
    try:
        selection = select(desk.state, wanted)
        require_room(selection, desk.state, desk.snapshot().settings.store.keep_free_mb)
        exported = write_zip(selection, file)
    except BaseException:
        file.close()
        raise
    desk.store.note(caller_of(request).actor, "export", {"cells": len(exported.cells), "format": "cells.zip"})
    headers = {"content-disposition": 'attachment; filename="cells.zip"', "content-length": str(file.tell())}
    file.seek(0)
    return StreamingResponse(_pieces(file), media_type="application/zip", headers=headers)


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def picture(desk: Desk, request: Request) -> Response:
    """A recent frame."""
    data = desk.live.jpeg(request.path_params["frame"])
    if data is None:
        raise HTTPException(404, "This frame is gone; only the newest few are kept.")
    return Response(data, media_type="image/jpeg")


def metrics(desk: Desk, _: Request) -> Response:
    """Prometheus' text."""
    from bloodedge_device.outputs.prometheus import CONTENT_TYPE, exposition

    return Response(exposition(desk.snapshot()), headers={"content-type": CONTENT_TYPE})


def healthz(desk: Desk, _: Request) -> Response:
    """Whether frames come in."""
    alive = desk.snapshot().alive
    return PlainTextResponse("alive\n" if alive else "no frame lately\n", 200 if alive else 503)


def readyz(desk: Desk, _: Request) -> Response:
    """Whether the network, the camera and the store are ready."""
    ready = desk.snapshot().ready
    return PlainTextResponse("ready\n" if ready else "not ready\n", 200 if ready else 503)
