"""Exports a slide: its cells as CSV, its report as JSON, HTML and PDF."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from bloodedge import RESEARCH_USE, __version__
from bloodedge.report import count, percent
from bloodedge.text import not_a_formula
from bloodedge_device.outputs.laboratory.fhir import fhir_bundle
from bloodedge_device.outputs.laboratory.hl7 import hl7_message
from bloodedge_device.outputs.laboratory.results import results_of
from bloodedge_device.report.page import FIGURES, page
from bloodedge_device.report.reading import DeviceReport, ShownCell, percentiles_text, read_report
from bloodedge_device.store import queries
from bloodedge_device.store.crops import shown_image
from bloodedge_device.store.rows import CellRow

KINDS = {
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "html": "text/html; charset=utf-8",
    "pdf": "application/pdf",
    "hl7": "application/hl7-v2",
    "fhir": "application/fhir+json",
}
ENDINGS = {"fhir": "fhir.json"}
"""Of files whose kind is not their ending."""

COLUMNS = (
    "cell", "frame", "source", "captured_at", "label", "blast_probability", "reason", "area_um2",
    "x", "y", "width", "height", "repeated", "review",
    "kind", "kind_probability", "stage", "review_kind", "review_stage",
)  # fmt: skip

GALLERY_SHOWN = 6
"""Cells in each row of the PDF."""


def export(state: Path, slide: int, kind: str) -> tuple[bytes, str]:
    """A slide as a file's bytes and its media type; kind is one of KINDS. UsageError when there is no such slide."""
    if kind == "csv":
        return cells_csv(state, slide).encode(), KINDS[kind]
    report = read_report(state, slide)
    if kind == "json":
        return json.dumps(report.to_json(), indent=2).encode(), KINDS[kind]
    if kind == "html":
        return page(report).encode(), KINDS[kind]
    if kind in {"hl7", "fhir"}:
        results = results_of(report)
        return hl7_message(results) if kind == "hl7" else fhir_bundle(results), KINDS[kind]
    return report_pdf(report), KINDS["pdf"]


def cells_csv(state: Path, slide: int) -> str:
    """Every cell of a slide, one row each, under COLUMNS (RFC 4180)."""
    return "".join(csv_parts(state, slide))


def csv_parts(state: Path, slide: int) -> Iterator[str]:
    """``cells_csv`` in parts, each read from the database when it is asked for."""
    yield _csv([], header=True)
    after = 0
    while cells := queries.cells(state, slide, after, queries.PART):
        after = cells[-1].id
        yield _csv(cells)


def _csv(cells: Sequence[CellRow], *, header: bool = False) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    if header:
        writer.writerow(COLUMNS)
    for cell in cells:
        writer.writerow(
            [
                cell.id,
                cell.frame,
                not_a_formula(cell.source),
                cell.captured_at.isoformat(),
                cell.label,
                "" if cell.blast_probability is None else f"{cell.blast_probability:.4f}",
                cell.reason or "",
                f"{cell.area_um2:.1f}",
                *cell.box,
                int(cell.repeated),
                cell.review or "",
                cell.kind or "",
                "" if cell.kind_probability is None else f"{cell.kind_probability:.4f}",
                cell.stage or "",
                cell.review_kind or "",
                cell.review_stage or "",
            ]
        )
    return text.getvalue()


def report_pdf(report: DeviceReport) -> bytes:
    """A slide's figures, warnings and cells worth a look as a PDF (A4) of one or two pages."""
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.units import mm
    from reportlab.platypus import SimpleDocTemplate

    data = io.BytesIO()
    document = SimpleDocTemplate(
        data, pagesize=A4, leftMargin=20 * mm, rightMargin=20 * mm, topMargin=18 * mm, bottomMargin=20 * mm,
        title=report.name, author=f"bloodedge {__version__}", subject=RESEARCH_USE,
    )  # fmt: skip
    story = [*_head(report), *_answer(report), *_figures(report), *_galleries(report)]
    document.build(story, onFirstPage=_foot, onLaterPages=_foot)
    return data.getvalue()


@cache
def _font() -> tuple[str, str]:
    """Names of a plain and a bold font; DejaVu where the system has it, since it knows most scripts."""
    import reportlab
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont

    dejavu = Path("/usr/share/fonts/truetype/dejavu")
    own = Path(reportlab.__file__).parent / "fonts"
    plain, bold = dejavu / "DejaVuSans.ttf", dejavu / "DejaVuSans-Bold.ttf"
    if not (plain.is_file() and bold.is_file()):
        plain, bold = own / "Vera.ttf", own / "VeraBd.ttf"
    pdfmetrics.registerFont(TTFont("plain", plain))
    pdfmetrics.registerFont(TTFont("bold", bold))
    pdfmetrics.registerFontFamily("plain", normal="plain", bold="bold", italic="plain", boldItalic="bold")
    return "plain", "bold"


def _text(text: str, size: float = 9, bold: bool = False, colour: str = "#1c2126", after: float = 3) -> Any:
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.platypus import Paragraph

    style = ParagraphStyle(
        "s", fontName=_font()[bold], fontSize=size, leading=size * 1.4, textColor=colour, spaceAfter=after
    )
    # the fonts have no narrow no-break space
    return Paragraph(escape(text.replace("\N{NARROW NO-BREAK SPACE}", "\N{NO-BREAK SPACE}")), style)


SOFT = "#59636e"


def _head(report: DeviceReport) -> list[Any]:
    run = report.run
    ended = f"{report.finished:%H:%M} UTC" if report.finished else "still running or interrupted"
    return [
        _text("bloodedge · device report", 8, colour=SOFT),
        _text(report.name, 18, bold=True, after=4),
        _text(f"Slide {report.slide} · {report.started:%d %B %Y, %H:%M} to {ended} · {run['hardware']}", colour=SOFT),
        _text(RESEARCH_USE, 9, bold=True, after=8),
        *(_text(f"Note. {warning}", 8.5, colour="#8a3906", after=5) for warning in report.warnings),
    ]


def _answer(report: DeviceReport) -> list[Any]:
    share = report.share
    return [
        _text(f"Blasts: {share.headline}", 20, bold=True, after=2),
        *(_text(sentence) for sentence in share.sentences[:-1]),
        _text(share.sentences[-1], after=8),
        _text(report.verdict_sentence, after=8),
    ]


def _figures(report: DeviceReport) -> list[Any]:
    counts, baseline, artifact = report.statistics, report.manifest.baseline, report.artifact
    seen = [
        ("Frames seen", count(counts.frames_seen)),
        ("Frames rejected", count(sum(counts.frames_rejected.values()))),
        ("Frames dropped", count(counts.frames_dropped)),
        *((f"Cells called {label}", count(cells)) for label, cells in counts.cells.items()),
    ]
    held_out = [
        ("Held-out figure", f"{artifact.engine} {artifact.precision}", "float model"),
        *((name, artifact.evaluation.text(key), baseline.evaluation.text(key)) for key, name in FIGURES.items()),
    ]
    timing = [
        ("Stage", "p50 / p95 / p99 ms", "timed for"),
        *((stage.stage, percentiles_text(stage.latency_ms), f"each {stage.per}") for stage in report.stages),
        ("inference, baseline", percentiles_text(baseline.latency_ms), baseline.hardware),
    ]
    tables = [
        *_differential(report),
        ("What was seen", _table(seen, header=False)),
        ("How far to trust it", _table(held_out)),
        ("How fast it was", _table(timing)),
    ]
    return [part for name, table in tables for part in (*([_text(name, 11, bold=True)] if name else []), table)]


def _differential(report: DeviceReport) -> list[tuple[str, Any]]:
    found, after = report.differential, report.reviewed_differential
    if found is None:
        return []
    rows = [("Of all leucocytes", "cells, share", "95 % interval", "corrected [95 %]", "after review")]
    for row in found.rows:
        corrected = "\N{EN DASH}"
        if row.corrected is not None:
            corrected = f"{percent(row.corrected)} [{percent(row.corrected_low)}, {percent(row.corrected_high)}]"
        reviewed = "\N{EN DASH}" if after is None else count(after.row(row.kind).cells)
        cells, limits = f"{count(row.cells)}, {percent(row.share)}", f"{percent(row.low)} to {percent(row.high)}"
        rows.append((row.name, cells, limits, corrected, reviewed))
    words = _text(" ".join((*found.sentences, found.beside_sentence)), 8.5, colour=SOFT)
    return [("Differential", _table(rows, widths=(42, 30, 36, 44, 22))), ("", words)]


def _table(rows: list[Any], header: bool = True, widths: tuple[float, ...] = (60, 55, 55)) -> Any:
    from reportlab.lib.colors import HexColor
    from reportlab.lib.units import mm
    from reportlab.platypus import Table

    style = [("LINEBELOW", (0, 0), (-1, -1), 0.4, HexColor("#dfe2e0")), ("TOPPADDING", (0, 0), (-1, -1), 1.5),
             ("BOTTOMPADDING", (0, 0), (-1, -1), 1.5), ("LEFTPADDING", (0, 0), (-1, -1), 0)]  # fmt: skip
    body = [[_text(str(cell), 8.5, colour=SOFT if header and index == 0 else "#1c2126", after=0) for cell in row]
            for index, row in enumerate(rows)]  # fmt: skip
    return Table(body, [width * mm for width in widths[: len(rows[0])]], hAlign="LEFT", style=style, spaceAfter=8)


_GALLERIES = {
    "Most blast-like": "most_blast_like",
    "Most uncertain": "most_uncertain",
    "Unlike the training cells, and not called": "refused",
}


def _galleries(report: DeviceReport) -> list[Any]:
    from reportlab.platypus import KeepTogether

    made: list[Any] = []
    for name, attribute in _GALLERIES.items():
        cells: list[ShownCell] = getattr(report, attribute)
        if cells:
            made.append(KeepTogether([_text(name, 11, bold=True), _gallery(cells[:GALLERY_SHOWN])]))
    return made


def _gallery(cells: list[ShownCell]) -> Any:
    from reportlab.lib.units import mm
    from reportlab.platypus import Image, Table

    jpegs = [shown_image(cell.crop) for cell in cells]
    images = [
        Image(io.BytesIO(jpeg), 24 * mm, 24 * mm, kind="proportional") if jpeg else _text("no image", 7.5, colour=SOFT)
        for jpeg in jpegs
    ]
    captions = [_text(_caption(cell), 7.5, colour=SOFT) for cell in cells]
    return Table(
        [images, captions], [28 * mm] * len(cells), hAlign="LEFT", style=[("LEFTPADDING", (0, 0), (-1, -1), 0)]
    )


def _caption(cell: ShownCell) -> str:
    value = "" if cell.blast_probability is None else f" {percent(cell.blast_probability)}"
    why = f", {cell.reason}" if cell.reason else ""
    return f"{cell.label}{value}{why}, frame {cell.frame}"


def _foot(canvas: Any, document: Any) -> None:
    from reportlab.lib.units import mm

    canvas.setFont(_font()[0], 7.5)
    canvas.setFillColor(SOFT)
    canvas.drawString(20 * mm, 11 * mm, f"{RESEARCH_USE} Made by bloodedge {__version__}.")
    canvas.drawRightString(190 * mm, 11 * mm, f"Page {document.page}")
