"""The report as tables in a terminal."""

from rich.markup import escape

from bloodedge import RESEARCH_USE
from bloodedge.bundle.evaluation_record import LatencyMs
from bloodedge.console import console
from bloodedge.report import milliseconds, percent, words
from bloodedge.tables import print_table
from bloodedge_device.report.reading import DeviceReport
from bloodedge_device.slide.differential import DifferentialRow

FIGURES = {"accuracy": "accuracy", "weighted_f1": "weighted F1", "auc": "AUC"}


def show(report: DeviceReport) -> None:
    """Print the report."""
    out = console()
    run = report.run
    out.print(f"[bold]{escape(report.name)}[/], {report.started:%Y-%m-%d %H:%M} UTC, {escape(run['camera'])}")
    out.print(
        f"Bundle {escape(run['bundle_name'])} (serial {run['bundle_serial']}), {run['engine']} {run['precision']} on"
        f" {run['hardware']}: {run['runtime']}, {run['threads']} threads"
    )
    out.print(report.statistics.sentence(report.artifact.rates))
    out.print(escape(report.verdict_sentence))
    for warning in report.warnings:
        out.print(f"[bold yellow]Mind:[/] {escape(warning)}")
    _show_frames(report)
    _show_cells(report)
    _show_differential(report)
    _show_latency(report)
    _show_trust(report)
    out.print(f"\n{_agreement(report)}")
    out.print(RESEARCH_USE, style="italic")


def _show_frames(report: DeviceReport) -> None:
    counts = report.statistics
    rows = [
        ("seen", str(counts.frames_seen)),
        ("dropped (the pipeline was busy)", str(counts.frames_dropped)),
        ("without a white cell", str(counts.frames_without_cells)),
        *((f"rejected: {words(reason)}", str(frames)) for reason, frames in counts.frames_rejected.items()),
    ]
    print_table(("", "frames"), rows, title="Frames")


def _show_cells(report: DeviceReport) -> None:
    counts = report.statistics
    found = counts.cells | {f"  uncertain: {words(reason)}": cells for reason, cells in counts.uncertain.items()}
    rows = [
        *((name, str(n), percent(n / counts.cells_total if counts.cells_total else None)) for name, n in found.items()),
        *((f"rejected by the finder: {words(reason)}", str(n), "") for reason, n in counts.not_cells.items()),
    ]
    print_table(("", "cells", "share of found"), rows, title="Cells")


def _show_differential(report: DeviceReport) -> None:
    count, after = report.differential, report.reviewed_differential
    if count is None:
        return
    interval = "corrected [95 %]" if count.is_corrected else "95 % interval"
    rows = [
        (
            row.name,
            str(row.cells),
            percent(row.share),
            _interval(row),
            *([str(after.row(row.kind).cells)] if after else []),
        )
        for row in count.rows
    ]
    columns = ("", "cells", "share", interval, *(["after review"] if after else []))
    print_table(columns, rows, title="Differential")
    for sentence in (*count.sentences, count.beside_sentence):
        console().print(escape(sentence))


def _interval(row: DifferentialRow) -> str:
    """The corrected share in its interval, or the exact limits of what was told."""
    if row.corrected is None:
        return f"{percent(row.low)} - {percent(row.high)}"
    return f"{percent(row.corrected)} [{percent(row.corrected_low)}, {percent(row.corrected_high)}]"


def _show_latency(report: DeviceReport) -> None:
    baseline = report.manifest.baseline
    rows = [
        *((stage.stage, stage.per, str(stage.count), *_percentiles(stage.latency_ms)) for stage in report.stages),
        (f"baseline inference, {baseline.hardware}", "cell", "", *_percentiles(baseline.latency_ms)),
    ]
    print_table(("stage", "per", "counted", "p50", "p95", "p99"), rows, title="Latency in ms")


def _percentiles(latency: LatencyMs) -> tuple[str, str, str]:
    return milliseconds(latency.p50), milliseconds(latency.p95), milliseconds(latency.p99)


def _show_trust(report: DeviceReport) -> None:
    artifact, baseline = report.artifact, report.manifest.baseline
    people = f"{baseline.evaluation.subjects} subjects" + ("" if baseline.evaluation.leaky else " not trained on")
    title = f"Held-out figures: {baseline.evaluation.cells} cells of {people}"
    ours = f"{artifact.engine} {artifact.precision} [95 % CI]"
    drops = artifact.agreement.drop
    rows = [
        (
            name,
            artifact.evaluation.text(key),
            baseline.evaluation.text(key),
            f"{drops[key]:+.2f}" if key in drops else "\N{EN DASH}",
        )
        for key, name in FIGURES.items()
    ]
    print_table(("", ours, "float model [95 % CI]", "drop, points"), rows, title=title)


def _agreement(report: DeviceReport) -> str:
    agreement, golden = report.artifact.agreement, report.golden
    return (
        f"Against the float model: {agreement.flips} of {agreement.cells} held-out cells changed class"
        f" ({percent(agreement.flip_rate, 2)}). Self-test at this start: {golden['flips']} of {golden['inputs']} golden"
        f" cells changed class, largest probability difference {golden['max_probability_difference']:.3f}."
    )
