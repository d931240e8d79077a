"""The pages that people see; each works without JavaScript."""

import base64
import hashlib
import re
from collections import Counter

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse

from bloodedge.decision.kinds import OTHER, Kind
from bloodedge.report import charts
from bloodedge.web_access import RefusedError
from bloodedge_device.report.page import STAGE_NAMES, page, share_strip, verdict_strip
from bloodedge_device.report.reading import read_report
from bloodedge_device.store import audit_log, open_for_reading, queries
from bloodedge_device.web import export, phrases
from bloodedge_device.web.access import Access, session_cookie
from bloodedge_device.web.api import query_of
from bloodedge_device.web.desk import Desk
from bloodedge_device.web.models import SlideLabel, SlidesQuery, StatusQuery
from bloodedge_device.web.request_checks import address_of, fields_of
from bloodedge_device.web.responses import caller_of, environment, html, redirect
from bloodedge_device.web.status import FrameStatus, status_of
from bloodedge_device.web.worker_threads import Work, slide_or_404

AUDIT_SHOWN = 100


def _view(desk: Desk) -> dict[str, object]:
    """What the live page's moving parts show."""
    status = status_of(desk.snapshot())
    frame, slide = status.frame, status.slide
    return {
        "status": status,
        "frame": frame,
        "slide": slide,
        "verdict": phrases.verdict(frame) if frame else None,
        "focus": phrases.focus(frame) if frame else None,
        "progress": phrases.progress(slide) if slide else None,
        "summary": phrases.summary(slide),
        "stage_names": STAGE_NAMES,
        "share_strip": share_strip(slide.corrected_share) if slide else "",
        "verdict_strip": verdict_strip(slide.verdict) if slide else "",
        "reasons": phrases.why_uncertain(slide.uncertain_reasons) if slide else {},
        "frame_reasons": _frame_reasons(frame) if frame else {},
        "frame_kinds": _frame_kinds(frame) if frame else {},
        "described": phrases.described,
        "share_axis": charts.axis_labels(charts.share_axis()),
    }


def _frame_reasons(frame: FrameStatus) -> dict[str, int]:
    return phrases.why_uncertain(Counter(cell.reason for cell in frame.cells if cell.reason))


def _frame_kinds(frame: FrameStatus) -> dict[str, int]:
    """Cells of which *blast or normal?* is not asked, by kind in the order of a differential count."""
    found = Counter(cell.kind for cell in frame.cells if cell.kind and cell.label == OTHER)
    return {kind: found[kind] for kind in Kind if found[kind]}


def live(desk: Desk, request: Request) -> Response:
    """What the camera sees, and the current slide."""
    return html(request, "live.html", **_view(desk))


async def view(work: Work, request: Request) -> Response:
    """The live page's moving parts, once there is a new frame."""
    query = query_of(request, StatusQuery)
    await work.wait_for_frame(request, query.after, query.wait_s)
    values = await work.run(lambda: _view(work.desk))
    return HTMLResponse(environment().get_template("view.html").render(values))


def slides(desk: Desk, request: Request) -> Response:
    """Every slide."""
    query = query_of(request, SlidesQuery)
    found = queries.slides(desk.state, query.before, query.limit)
    current = desk.snapshot().slide
    older = found[-1].id if len(found) == query.limit and found[-1].id > 1 else None
    return html(request, "slides.html", slides=found, older=older, current=current and current.id)


def slide(desk: Desk, request: Request) -> Response:
    """One slide."""
    found = slide_or_404(desk, request)
    report = read_report(desk.state, found.id)
    return html(
        request,
        "slide.html",
        slide=found,
        report=report,
        strip=share_strip(found.corrected_share),
        verdict_strip=verdict_strip(found.verdict),
        reasons=phrases.why_uncertain(report.statistics.uncertain),
        axis=charts.axis_labels(charts.share_axis()),
        drift=queries.drift_of(desk.state, found.id),
    )


def report(desk: Desk, request: Request) -> Response:
    """A slide's whole report: one HTML file, whose own style the answer's policy allows by its digest."""
    text = page(read_report(desk.state, slide_or_404(desk, request).id))
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; frame-ancestors 'none'"
    return HTMLResponse(text, headers={"content-security-policy": policy})


def download(desk: Desk, request: Request) -> Response:
    """A slide as a file."""
    found, kind = slide_or_404(desk, request), request.path_params["kind"]
    if kind not in export.KINDS:
        raise HTTPException(404, f"There is no such kind of file; choose one of {', '.join(export.KINDS)}.")
    name = f"slide-{found.id}.{export.ENDINGS.get(kind, kind)}"
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    if kind == "csv":  # a million cells would take a gigabyte
        parts = export.csv_parts(desk.state, found.id)
        answer: Response = StreamingResponse(parts, media_type=export.KINDS[kind], headers=headers)
    else:
        data, media = export.export(desk.state, found.id, kind)
        answer = Response(data, media_type=media, headers=headers)
    desk.store.note(caller_of(request).actor, "export", {"slide": found.id, "format": kind})
    return answer


def start_slide(desk: Desk, request: Request) -> Response:
    """Begin a slide."""
    desk.start_slide(_label(request), caller_of(request).actor)
    return redirect("/")


def end_slide(desk: Desk, request: Request) -> Response:
    """End the current slide, and show it."""
    ended = desk.end_slide(caller_of(request).actor)
    return redirect("/" if ended is None else f"/slides/{ended}")


def label_slide(desk: Desk, request: Request) -> Response:
    """Give a slide another label."""
    found = slide_or_404(desk, request)
    desk.label_slide(found.id, _label(request), caller_of(request).actor)
    return redirect("/" if fields_of(request).get("back") == "live" else f"/slides/{found.id}")


def _label(request: Request) -> str:
    try:
        return SlideLabel(label=fields_of(request).get("label", "").strip()).label
    except ValidationError as error:
        raise HTTPException(400, "A label is one line of at most 200 characters; go back and shorten it.") from error


def health(desk: Desk, request: Request) -> Response:
    """How each part is, and who did what."""
    status = status_of(desk.snapshot())
    with open_for_reading(desk.state) as database:
        entries, broken = audit_log.read(database, AUDIT_SHOWN), audit_log.first_broken(database)
    return html(
        request,
        "health.html",
        status=status,
        entries=entries,
        broken=broken,
        drift=queries.drift_of(desk.state, status.slide.id) if status.slide else None,
    )


def login(_: Desk, request: Request) -> Response:
    """The form that asks for the access token."""
    caller = caller_of(request)
    if caller.access is None or not caller.access.needs_login or caller.signed_in:
        return redirect("/")
    return html(request, "login.html", wrong=False)


def sign_in(desk: Desk, request: Request) -> Response:
    """Begin a session for the right token."""
    access = caller_of(request).access
    if access is None or not access.needs_login:
        return redirect("/")
    address = address_of(request.scope)
    try:
        right = access.is_token(fields_of(request).get("token", ""), address)
    except RefusedError:
        _note_refused(desk, access, address)
        raise
    if not right:
        _note_refused(desk, access, address)
        answer = html(request, "login.html", wrong=True)
        answer.status_code = 401
        return answer
    cookie, _ = access.sessions.begin(signed_in=True)
    desk.store.note("page", "login", {"address": address})
    answer = redirect("/")
    answer.headers["set-cookie"] = session_cookie(access, cookie)
    return answer


def _note_refused(desk: Desk, access: Access, address: str) -> None:
    if (detail := access.refused.count(address)) is not None:
        desk.store.note("page", "login refused", detail)


def sign_out(desk: Desk, request: Request) -> Response:
    """End the browser's session."""
    caller = caller_of(request)
    if caller.access is None or caller.cookie is None:
        return redirect("/")
    caller.access.sessions.end(caller.cookie)
    desk.store.note("page", "logout", {"address": address_of(request.scope)})
    answer = redirect("/login")
    answer.headers["set-cookie"] = session_cookie(caller.access, "", 0)
    return answer
