"""The pages on which people teach the device their bench: which cells to review, and whether enough were."""

import re
from contextlib import suppress
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from bloodedge.bundle import Bundle
from bloodedge.errors import BloodedgeError, quoted
from bloodedge.report import charts, percent
from bloodedge_device.bundles.loading import Loaded
from bloodedge_device.bundles.released import released_bundle
from bloodedge_device.bundles.slot_record import read_record, slot_file
from bloodedge_device.settings import DeviceSettings
from bloodedge_device.slide.interval import ClusteredShare
from bloodedge_device.slide.review import SAMPLINGS, Sampling
from bloodedge_device.store import queries
from bloodedge_device.store.rows import CellRow
from bloodedge_device.teach.learning import Point
from bloodedge_device.teach.queue import suggest
from bloodedge_device.teach.summary import teaching
from bloodedge_device.web.desk import Desk
from bloodedge_device.web.request_checks import fields_of
from bloodedge_device.web.responses import caller_of, html, redirect
from bloodedge_device.web.review_pages import KIND_NAMES, REVIEW_NAMES, review_of, said


def overview(desk: Desk, request: Request) -> Response:
    """What was reviewed, what it teaches, and how to fine-tune."""
    manifest = desk.snapshot().loaded.manifest
    shown = teaching(desk.state, (manifest.name, manifest.serial))
    intervals = [_interval(point.accuracy) for point in shown.curve]
    axis = charts.share_axis(min((low for low, _ in intervals), default=0.5), 1.0)
    return html(
        request,
        "teach.html",
        teaching=shown,
        commands=_commands(desk),
        bundle=f"{manifest.name} {manifest.serial}",
        can_be_taught=manifest.features is not None,
        made_from=manifest.finetuned and f"{manifest.finetuned.from_name} {manifest.finetuned.from_serial}",
        rows=[(point, interval, _strip(axis, point)) for point, interval in zip(shown.curve, intervals, strict=True)],
        axis=charts.axis_labels(axis),
    )


def _interval(share: ClusteredShare) -> tuple[float, float]:
    return share.clustered_ci95 or share.ci95


def _strip(axis: charts.Axis, point: Point) -> str:
    share = point.accuracy.share
    text = "" if share is None else percent(share)
    return charts.interval_strip(axis, share, _interval(point.accuracy), "normal", text)


def _commands(desk: Desk) -> dict[str, str]:
    """From the reviewed cells to the device's next bundle, on any machine with bloodedge."""
    snapshot, state = desk.snapshot(), f"--state {quoted(desk.state)}"
    settings = snapshot.settings
    device = state if settings.file is None else f"--config {quoted(settings.file)} {state}"
    begin = _bundle_to_begin_with(settings, snapshot.loaded)
    signed = "" if settings.trust.unsigned else " --key LAB.key"
    teach = (
        f"bloodedge device export CELLS --reviewed {state} && \\",
        f"bloodedge finetune CELLS --from {'BUNDLE' if begin is None else quoted(begin)} -o bench.bundle{signed}",
    )
    key = (
        "bloodedge keys new LAB && \\",
        f"bloodedge keys trust LAB.pub --trust {quoted(settings.trusted_keys)}",
    )
    return {
        "key": "\n".join(key) if signed else "",
        "teach": "\n".join(teach),
        "install": f"bloodedge device install bench.bundle {device}",
    }


def _bundle_to_begin_with(settings: DeviceSettings, loaded: Loaded) -> Path | None:
    """The bundle that reviewed cells are to be taught: the one that runs, or the one that it was fine-tuned from.

    A fine-tuned bundle cannot be judged on cells that it was fitted to. None where that file is not here, or the bundle
    cannot be fine-tuned.
    """
    manifest = loaded.manifest
    if manifest.features is None:
        return None
    if manifest.finetuned is None:
        return settings.bundle or (slot_file(settings.state, loaded.slot) if loaded.slot else released_bundle(settings))
    wanted = manifest.finetuned.from_name, manifest.finetuned.from_serial
    for name, slot in read_record(settings.state).slots.items():
        if (slot.name, slot.serial) == wanted:
            return slot_file(settings.state, name)
    with suppress(BloodedgeError):
        released = released_bundle(settings)
        with Bundle(released) as bundle:
            if (bundle.manifest.name, bundle.manifest.serial) == wanted:
                return released
    return None


def review(desk: Desk, request: Request) -> Response:
    """The cell to review next, and the answer to the one before."""
    _, before = _cell(desk, request.query_params.get("before"))
    slide, again = _cell(desk, request.query_params.get("cell"))
    next_one = suggest(desk.state) if again is None else None
    return html(
        request,
        "teach_review.html",
        cell=again.id if again else next_one and next_one.cell,
        slide=slide if again else next_one and next_one.slide,
        sampling=_sampling(request.query_params.get("sampling")) if again else next_one and next_one.sampling,
        why="" if next_one is None else next_one.why,
        again=again,
        before=before,
        before_sampling=_sampling(request.query_params.get("sampling")) if before else None,
        names=REVIEW_NAMES,
        kind_names=KIND_NAMES,
        said=said,
    )


def answer(desk: Desk, request: Request) -> Response:
    """Store a person's answer to a cell, and show the next one."""
    fields = fields_of(request)
    _, cell = _cell(desk, str(request.path_params["cell"]))
    assert cell is not None
    sampling = _sampling(fields.get("sampling"))
    desk.review(cell.id, review_of(fields), sampling, caller_of(request).actor)
    return redirect(f"/teach/review?before={cell.id}&sampling={sampling}")


def _sampling(text: str | None) -> Sampling:
    for known in SAMPLINGS:
        if text == known:
            return known
    raise HTTPException(400, f"A cell is {', '.join(SAMPLINGS)}; go back to the Teach page.")


def _cell(desk: Desk, text: str | None) -> tuple[int | None, CellRow | None]:
    """The cell that a query names, with its slide; 404 when there is no such cell."""
    if text is None:
        return None, None
    found = queries.find_cell(desk.state, int(text)) if re.fullmatch(r"[1-9][0-9]{0,15}", text) else None
    if found is None:
        raise HTTPException(404, "There is no such cell; go back to the Teach page.")
    return found
