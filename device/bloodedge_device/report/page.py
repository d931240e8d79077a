"""The report as one self-contained HTML file."""

from pathlib import Path, PurePosixPath
from typing import Any

from bloodedge.bundle.evaluation_record import Evaluation, LatencyMs
from bloodedge.decision.kinds import OTHER
from bloodedge.decision.prevalence import TELLS_NOTHING, ShareFigures
from bloodedge.decision.slide_verdict import SURE, Answer, VerdictFigures
from bloodedge.decision.thresholds import Thresholds
from bloodedge.files import write_text
from bloodedge.machine import EARLIEST
from bloodedge.report import charts, count, data_uri, percent, render
from bloodedge_device.report.reading import DeviceReport, ShownCell, percentiles_text
from bloodedge_device.store.crops import shown_image
from bloodedge_device.store.statistics import PROBABILITY_BINS

FIGURES = {
    "accuracy": "Accuracy",
    "weighted_f1": "Weighted F1",
    "auc": "AUC",
    "sensitivity": "Sensitivity (blasts found)",
    "specificity": "Specificity (normals left alone)",
}

STAGE_NAMES = {
    "camera": "Camera",
    "gate": "Frame gate",
    "find": "Cell finder",
    "overlap": "Overlap",
    "kind": "Kind of cell",
    "imaging": "Imaging",
    "inference": "Inference",
    "domain": "Domain",
    "decision": "Decision",
    "store": "Store",
    "frame": "Frame in to rows stored",
}


def write_page(report: DeviceReport, target: Path) -> None:
    """Write the report to ``target``, atomically."""
    write_text(target, page(report))


def page(report: DeviceReport) -> str:
    """The report's HTML."""
    counts, manifest, artifact = report.statistics, report.manifest, report.artifact
    stage_rows, latency_axis = _stage_rows(report)
    trust_rows, trust_axis = _trust_rows(report)
    rejected = sum(counts.frames_rejected.values())
    return render(
        "bloodedge_device.report",
        "report.html",
        report=report,
        counts=counts,
        when=_when(report),
        rejected=rejected,
        with_cells=counts.frames_processed - counts.frames_without_cells - rejected,
        inference=report.stage("inference"),
        baseline=manifest.baseline,
        thresholds=manifest.thresholds,
        artifact=artifact,
        evaluation=artifact.evaluation,
        agreement=artifact.agreement,
        stage_rows=stage_rows,
        trust_rows=trust_rows,
        drop_rows=_drop_rows(report),
        charts={
            "share": share_strip(report.share.figures),
            "verdict": verdict_strip(report.verdict.figures if report.verdict else None),
            "share_axis": charts.axis_labels(charts.share_axis()),
            "cells": charts.share_bar(
                [charts.Part(name, counts.cells[name], name) for name in ("blast", "uncertain", "normal", OTHER)]
            ),
            "probabilities": _probabilities(report.probabilities, manifest.thresholds),
            "latency_axis": latency_axis,
            "trust_axis": trust_axis,
        },
        most_blast_like=[_shown(cell) for cell in report.most_blast_like],
        most_uncertain=[_shown(cell) for cell in report.most_uncertain],
        refused=[_shown(cell) for cell in report.refused],
        facts=_facts(report),
    )


def share_strip(share: ShareFigures) -> str:
    """A chart of the corrected share's interval and the drawn share, if known; empty without a corrected share.

    The share itself is marked unless its interval is so wide that it means nothing.
    """
    if share.corrected is None:
        return ""
    text = f"Share of blasts: 95 % interval {share.low:.1%} to {share.high:.1%}, corrected for errors and refusals"
    text += "" if share.truth is None else f"; drawn {share.truth:.1%}"
    marked = share.corrected if share.high - share.low <= TELLS_NOTHING else None
    return charts.interval_strip(charts.share_axis(), marked, (share.low, share.high), "blast", text, share.truth)


VERDICT_AXIS = charts.Axis(
    1 / 50,
    50,
    ((1 / 50, "healthy"), (1 / SURE, f"{SURE:g}x"), (1, "even"), (SURE, f"{SURE:g}x"), (50, "patients")),
    log=True,
)
"""How many times as like one kind of slide as the other."""
KINDS: dict[Answer, str] = {"like patients": "blast", "like healthy people": "normal", "cannot tell": "uncertain"}


def verdict_strip(verdict: VerdictFigures | None) -> str:
    """A chart of a slide's likelihood ratio and of those at which it cannot be told; empty without one."""
    if verdict is None or verdict.ratio is None:
        return ""
    text = f"Likelihood ratio of patients' to healthy people's slides: {verdict.ratio:.2g}; {verdict.answer}"
    strip = charts.zone_strip(VERDICT_AXIS, verdict.ratio, (1 / SURE, SURE), KINDS[verdict.answer], text)
    return strip + charts.axis_labels(VERDICT_AXIS)


def _when(report: DeviceReport) -> str:
    start = f"{report.started:%d %B %Y, %H:%M}"
    if report.finished is None:
        return f"{start} UTC, still running or interrupted"
    seconds = (report.finished - report.started).total_seconds()
    if seconds < 0 or report.started < EARLIEST:  # the clock was set in between
        return f"{start} UTC by a clock that was not set"
    took = (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
    return f"{start} UTC, {took}"


def _probabilities(counts: list[int], thresholds: Thresholds) -> str:
    width = 1 / PROBABILITY_BINS

    def kind(middle: float) -> str:
        if thresholds.uncertain_low < middle < thresholds.uncertain_high:
            return "uncertain"
        return "blast" if middle >= thresholds.blast else "normal"

    bins = [charts.Bin(i * width, (i + 1) * width, n, kind((i + 0.5) * width)) for i, n in enumerate(counts)]
    text = f"Histogram of the blast probability of {sum(counts)} cells, {PROBABILITY_BINS} bins from 0 to 100 %"
    return charts.histogram(charts.share_axis(), bins, text, [(thresholds.blast, "blast from here")])


def _stage_rows(report: DeviceReport) -> tuple[list[dict[str, Any]], str]:
    baseline = report.manifest.baseline
    latencies = [stage.latency_ms for stage in report.stages] + [baseline.latency_ms]
    axis = charts.log_axis([v for latency in latencies for v in (latency.p50, latency.p99)], "ms")
    rows = []
    for stage in report.stages:
        name = STAGE_NAMES[stage.stage]
        note = f"per {stage.per}, {count(stage.count)} timed"
        rows.append(_latency_row(axis, name, note, stage.latency_ms, "device"))
        if stage.stage == "inference":
            rows.append(_latency_row(axis, "Inference, baseline", baseline.hardware, baseline.latency_ms, "baseline"))
    return rows, charts.axis_labels(axis)


def _latency_row(axis: charts.Axis, name: str, note: str, latency: LatencyMs, kind: str) -> dict[str, Any]:
    value = percentiles_text(latency)
    strip = charts.latency_strip(axis, latency, kind, f"{name}: p50, p95 and p99 {value} milliseconds")
    return {"name": name, "note": note, "value": value, "strip": strip}


def _trust_rows(report: DeviceReport) -> tuple[list[dict[str, Any]], str]:
    artifact, baseline = report.artifact, report.manifest.baseline
    pairs = [
        (artifact.evaluation, "device", f"{artifact.engine} {artifact.precision}"),
        (baseline.evaluation, "baseline", "float model"),
    ]
    lows = [bound for evaluation, _, _ in pairs for key in FIGURES if (bound := _low(evaluation, key)) is not None]
    axis = charts.share_axis(min([*lows, 0.9]), 1.0)
    rows = []
    for key, name in FIGURES.items():
        for evaluation, kind, note in pairs:
            value: float | None = getattr(evaluation, key)
            if value is None:
                continue
            shown = evaluation.text(key)
            text = f"{name}, {note}: {shown}"
            strip = charts.interval_strip(axis, value, evaluation.ci95.get(key), kind, text)
            rows.append(
                {
                    "name": name if kind == "device" else "",
                    "note": note,
                    "strip": strip,
                    "value": shown,
                    "pair": kind == "device",
                }
            )
    return rows, charts.axis_labels(axis)


def _low(evaluation: Evaluation, key: str) -> float | None:
    value: float | None = getattr(evaluation, key)
    return evaluation.ci95[key][0] if key in evaluation.ci95 else value


def _drop_rows(report: DeviceReport) -> list[dict[str, str]]:
    agreement = report.artifact.agreement
    return [
        {
            "name": f"drop in {name[0].lower() + name[1:] if key != 'auc' else name}, points",
            "value": _signed(agreement.drop[key]),
            "interval": f"[{', '.join(map(_signed, interval))}]" if (interval := agreement.drop_ci95.get(key)) else "",
        }
        for key, name in FIGURES.items()
        if key in agreement.drop
    ]


def _signed(points: float) -> str:
    return f"{points:+.2f}".replace("-", "\N{MINUS SIGN}")


def _shown(cell: ShownCell) -> dict[str, str]:
    value = "" if cell.blast_probability is None else percent(cell.blast_probability)
    verdict = f"Cell {'left uncertain, ' + cell.reason if cell.reason else 'called ' + cell.label}"
    text = f"{verdict}{', blast probability ' + value if value else ''}, {cell.area_um2:.0f} square micrometres"
    return {
        "uri": data_uri(shown_image(cell.crop), "image/jpeg"),
        "text": text,
        "kind": cell.label,
        "value": value,
        "reason": cell.reason,
        "note": f"{cell.area_um2:.0f} µm²",
        "frame": f"frame {cell.frame}" + (f", {_end(cell.source)}" if cell.source else ""),
        "origin": cell.source,
    }


END_CHARACTERS = 10
"""How much of a file name's end is kept: names of one camera differ there."""


def _end(source: str) -> str:
    name = PurePosixPath(source).name
    return name if len(name) <= END_CHARACTERS else f"…{name[-END_CHARACTERS:]}"


def _facts(report: DeviceReport) -> list[tuple[str, str]]:
    run, manifest, artifact = report.run, report.manifest, report.artifact
    provenance = manifest.provenance
    data = (
        "rendered by the simulated microscope"
        if provenance.rendered
        else f"fingerprint {provenance.data_fingerprint[:12]}"
    )
    split = "by image (leaky)" if provenance.split.leaky else "by group: no person on both sides"
    return [
        ("Bundle", f"{manifest.name}, serial {manifest.serial}"),
        ("Model", f"{provenance.model}, {count(provenance.parameters)} parameters"),
        ("Artifact", f"{artifact.engine} {artifact.precision}, {artifact.size_bytes / 2**20:.1f} MiB"),
        ("Runtime", f"{run['runtime']}, {run['threads']} threads"),
        ("Engine taken because", run["engine_reason"]),
        ("Board", run["hardware"]),
        ("Ready after", f"{run['ready_ms'] / 1000:.2f} s"),
        ("Converted", f"{provenance.converted}, {provenance.calibration_cells} calibration cells"),
        ("Data", data),
        ("Split", split),
        ("Starting weights", provenance.weights),
        ("Camera", run["camera"]),
    ]
