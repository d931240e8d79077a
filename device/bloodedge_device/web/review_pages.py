"""The pages on which a person reviews cells, one by one; each works without JavaScript."""

import re
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from bloodedge.decision.kinds import ASKED, Kind, kind_words
from bloodedge_device.report.page import FIGURES
from bloodedge_device.report.reading import read_report
from bloodedge_device.slide.review import OF_A_SLIDE, REVIEW_LABELS, Review, Sampling, review_figures
from bloodedge_device.store import queries
from bloodedge_device.store.rows import CellRow
from bloodedge_device.web.desk import Desk
from bloodedge_device.web.request_checks import fields_of
from bloodedge_device.web.responses import caller_of, html, redirect
from bloodedge_device.web.worker_threads import slide_or_404

REVIEW_NAMES = {"blast": "Blast", "normal": "Normal", "not_a_cell": "Not a cell", "unsure": "Unsure"}
KIND_NAMES = {
    "neutrophil.segmented": "Segmented neutrophil",
    "neutrophil.band": "Band neutrophil",
    **{kind.value: kind.words.capitalize() for kind in Kind if kind not in {Kind.NEUTROPHIL, Kind.UNKNOWN}},
}
"""Kinds that a person may choose; a stage follows a point."""

REVIEWED_FIGURES = ("accuracy", "sensitivity", "specificity")


def _sampling(value: str | None) -> Sampling:
    for known in OF_A_SLIDE:
        if value == known:
            return known
    raise HTTPException(400, "A review is of random cells or of the gallery; choose one on the slide's page.")


def review(desk: Desk, request: Request) -> Response:
    """One cell to review, and the answer to the one before."""
    found, sampling = slide_or_404(desk, request), _sampling(request.query_params.get("sampling", "random"))
    order = queries.review_order(desk.state, found.id, sampling)
    answers = queries.answers(desk.state, found.id, sampling)
    again = cell_of(desk, found.id, request.query_params.get("cell"))
    left = [cell for cell in order if cell not in answers]
    shown = again.id if again else left[0] if left else None
    before = cell_of(desk, found.id, request.query_params.get("before"))
    return html(
        request,
        "review.html",
        slide=found,
        sampling=sampling,
        cell=shown,
        again=again,
        done=sum(cell in answers for cell in order),
        total=len(order),
        before=before if before is not None and before.id in answers else None,
        answers=answers,
        names=REVIEW_NAMES,
        kind_names=KIND_NAMES,
        said=said,
    )


def said(cell: CellRow) -> str:
    """A person's latest answer to a cell, in words."""
    if cell.review_kind is not None:
        return kind_words(cell.review_kind, cell.review_stage)
    return REVIEW_NAMES[cell.review].lower() if cell.review else "none"


def cell_of(desk: Desk, slide: int, text: str | None) -> CellRow | None:
    """The slide's cell that a query names, if any; 404 when the slide has no such cell."""
    if text is None:
        return None
    found = queries.find_cell(desk.state, int(text)) if re.fullmatch(r"[1-9][0-9]{0,15}", text) else None
    if found is None or found[0] != slide:
        raise HTTPException(404, "This slide has no such cell; go back to the slide.")
    return found[1]


def answer(desk: Desk, request: Request) -> Response:
    """Store a person's label for a cell, and show the next cell."""
    found, fields = slide_or_404(desk, request), fields_of(request)
    sampling = _sampling(fields.get("sampling"))
    cell = cell_of(desk, found.id, str(request.path_params["cell"]))
    assert cell is not None
    desk.review(cell.id, review_of(fields), sampling, caller_of(request).actor)
    return redirect(f"/review/{found.id}?sampling={sampling}&before={cell.id}")


def review_of(fields: Mapping[str, str]) -> Review:
    """What a form says of a cell: a class, or a kind, which of a mononuclear cell says that it is no blast too."""
    label, choice = fields.get("label"), fields.get("kind")
    if choice is None and label in REVIEW_LABELS:
        return Review.of(label)
    if label is not None or choice not in KIND_NAMES:
        raise HTTPException(400, "Choose what the cell is: blast, normal, not a cell, unsure or a kind; go back.")
    kind, _, stage = choice.partition(".")
    return Review.of("normal" if kind in ASKED else None, kind, stage or None)


def result(desk: Desk, request: Request) -> Response:
    """How often reviewer and device agree, beside the bundle's held-out figures."""
    found = slide_or_404(desk, request)
    figures = review_figures(queries.reviewed_cells(desk.state, found.id))
    report = read_report(desk.state, found.id)
    return html(
        request,
        "result.html",
        slide=found,
        figures=figures,
        shown=[(key, FIGURES[key]) for key in REVIEWED_FIGURES],
        baseline=report.manifest.baseline,
        kind_agreement=report.kind_agreement,
        names=REVIEW_NAMES,
    )
