"""The report as tables in a terminal."""

from dataclasses import dataclass, field

from rich.markup import escape

from bloodedge import RESEARCH_USE
from bloodedge.bundle.evaluation_record import LatencyMs
from bloodedge.console import console
from bloodedge.report import milliseconds, percent, words
from bloodedge.tables import print_table
from bloodedge_device.report.reading import DeviceReport, figure_text

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
    for warning in report.warnings:
        out.print(f"[bold yellow]Mind:[/] {escape(warning)}")
    for table in (_frames(report), _cells(report), _latency(report), _trust(report)):
        print_table(table.columns, table.rows, title=table.title)
    out.print(f"\n{_agreement(report)}")
    out.print(RESEARCH_USE, style="italic")


@dataclass
class Table:
    """A table's content; its first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)


def _frames(report: DeviceReport) -> Table:
    counts = report.statistics
    table = Table("Frames", ("", "frames"))
    table.rows.append(("seen", str(counts.frames_seen)))
    table.rows.append(("dropped (the pipeline was busy)", str(counts.frames_dropped)))
    table.rows.append(("without a white cell", str(counts.frames_without_cells)))
    for reason, frames in counts.frames_rejected.items():
        table.rows.append((f"rejected: {words(reason)}", str(frames)))
    return table


def _cells(report: DeviceReport) -> Table:
    counts = report.statistics
    table = Table("Cells", ("", "cells", "share of found"))
    for label, cells in counts.cells.items():
        table.rows.append((label, str(cells), percent(cells / counts.cells_total if counts.cells_total else None)))
    for reason, cells in counts.uncertain.items():
        table.rows.append((f"  uncertain: {words(reason)}", str(cells), percent(cells / counts.cells_total)))
    for reason, objects in counts.not_cells.items():
        table.rows.append((f"rejected by the finder: {words(reason)}", str(objects), ""))
    return table


def _latency(report: DeviceReport) -> Table:
    table = Table("Latency in ms", ("stage", "per", "counted", "p50", "p95", "p99"))
    for stage in report.stages:
        table.rows.append((stage.stage, stage.per, str(stage.count), *_percentiles(stage.latency_ms)))
    baseline = report.manifest.baseline
    table.rows.append((f"baseline inference, {baseline.hardware}", "cell", "", *_percentiles(baseline.latency_ms)))
    return table


def _percentiles(latency: LatencyMs) -> tuple[str, str, str]:
    return milliseconds(latency.p50), milliseconds(latency.p95), milliseconds(latency.p99)


def _trust(report: DeviceReport) -> Table:
    artifact, baseline = report.artifact, report.manifest.baseline
    people = f"{baseline.evaluation.subjects} subjects" + ("" if baseline.evaluation.leaky else " not trained on")
    title = f"Held-out figures: {baseline.evaluation.cells} cells of {people}"
    ours = f"{artifact.engine} {artifact.precision} [95 % CI]"
    table = Table(title, ("", ours, "float model [95 % CI]", "drop, points"))
    for key, name in FIGURES.items():
        drop = artifact.agreement.drop.get(key)
        table.rows.append(
            (
                name,
                figure_text(artifact.evaluation, key),
                figure_text(baseline.evaluation, key),
                "\N{EN DASH}" if drop is None else f"{drop:+.2f}",
            )
        )
    return table


def _agreement(report: DeviceReport) -> str:
    agreement, golden = report.artifact.agreement, report.golden
    return (
        f"Against the float model: {agreement.flips} of {agreement.cells} held-out cells changed class"
        f" ({percent(agreement.flip_rate, 2)}). Self-test at this start: {golden['flips']} of {golden['inputs']} golden"
        f" cells changed class, largest probability difference {golden['max_probability_difference']:.3f}."
    )
