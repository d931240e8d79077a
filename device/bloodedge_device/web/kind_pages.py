"""The page on which a person reclassifies a slide's cells, sorted by kind; it works without JavaScript."""

import re
from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from bloodedge.decision.kinds import Kind, kind_words
from bloodedge.decision.thresholds import LABELS
from bloodedge_device.slide.review import Review
from bloodedge_device.store import kind_queries
from bloodedge_device.store.rows import CellRow
from bloodedge_device.web.desk import Desk
from bloodedge_device.web.request_checks import fields_of
from bloodedge_device.web.responses import caller_of, html, redirect
from bloodedge_device.web.review_pages import KIND_NAMES, review_of, said
from bloodedge_device.web.worker_threads import slide_or_404

A_PAGE = 48
"""Cells on a page."""
CHOICES = {"blast": "Blast", **KIND_NAMES, "not_a_cell": "Not a cell"}


def kinds(desk: Desk, request: Request) -> Response:
    """A slide's cells of one kind, to choose from."""
    found = slide_or_404(desk, request)
    groups = kind_queries.cells_by_kind(desk.state, found.id)
    shown = request.query_params.get("kind", next(iter(groups), ""))
    number = request.query_params.get("page", "1")
    if not re.fullmatch(r"[1-9][0-9]{0,8}", number):
        raise HTTPException(404, "There is no such page; go back to the slide.")
    ids = groups.get(shown, [])
    pages = max(1, -(-len(ids) // A_PAGE))
    page = min(int(number), pages)
    return html(
        request,
        "kinds.html",
        slide=found,
        groups=groups,
        shown=shown,
        cells=kind_queries.cells(desk.state, ids[(page - 1) * A_PAGE : page * A_PAGE]),
        page=page,
        pages=pages,
        choices=CHOICES,
        answer=_device_answer,
        said=said,
    )


def _device_answer(cell: CellRow) -> str:
    kind = "" if cell.kind is None else kind_words(cell.kind, cell.stage)
    return cell.label if cell.label == "blast" or not kind else f"{kind}{', uncertain' * (cell.label == 'uncertain')}"


def reclassify(desk: Desk, request: Request) -> Response:
    """Store what a person says of the chosen cells, and show the same kind again."""
    found, fields = slide_or_404(desk, request), fields_of(request)
    ids = [int(name[5:]) for name in fields if re.fullmatch(r"cell\.[1-9][0-9]{0,15}", name)]
    cells = kind_queries.cells(desk.state, ids, found.id)
    if len(cells) != len(ids):
        raise HTTPException(404, "This slide has no such cell; go back to the slide.")
    choice = fields.get("kind", "")
    if choice != "confirm" and choice not in CHOICES:
        raise HTTPException(400, "Choose what the cells are: as the device says, blast, not a cell or a kind; go back.")
    desk.review_all(_reviews(cells, choice), "gallery", caller_of(request).actor)
    shown = fields.get("shown", "")
    back = f"?kind={shown}&page={fields.get('page', '1')}" if re.fullmatch(r"[a-z_]{1,30}", shown) else ""
    return redirect(f"/slides/{found.id}/kinds{back}")


def _reviews(cells: Sequence[CellRow], choice: str) -> dict[int, Review]:
    """Reviews by cell; cells that the device did not name cannot be confirmed."""
    if choice == "confirm":
        named = [cell for cell in cells if cell.label == "blast" or cell.kind not in {None, Kind.UNKNOWN}]
        return {cell.id: _confirmed(cell) for cell in named}
    by_class = choice in {"blast", "not_a_cell"}
    review = Review.of(choice) if by_class else review_of({"kind": choice})
    return {cell.id: review for cell in cells}


def _confirmed(cell: CellRow) -> Review:
    kind = None if cell.kind is Kind.UNKNOWN else cell.kind
    return Review.of(cell.label if cell.label in LABELS else None, kind, cell.stage if kind else None)
