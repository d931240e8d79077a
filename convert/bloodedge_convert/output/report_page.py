"""The conversion report as one HTML file."""

from markupsafe import Markup

from bloodedge.bundle.manifest import Agreement, Artifact
from bloodedge.report import milliseconds, render
from bloodedge.report.charts import Axis, axis_labels, bar_strip, interval_strip
from bloodedge_convert.int8_methods import DESCRIPTIONS, Attempt
from bloodedge_convert.litert.layer_noise import LayerNoise
from bloodedge_convert.output.bundle_card import lost
from bloodedge_convert.output.report import ConversionReport, Verdict

ENGINES = {"litert": "LiteRT", "openvino": "OpenVINO", "onnx": "ONNX Runtime"}
WORST = 10
EXACT_DB = 100.0
"""A layer above this only passes its input on."""
DASH = "\N{EN DASH}"


def page(report: ConversionReport) -> str:
    """The report as HTML in one file."""
    manifest = report.manifest
    noisy = [layer for layer in report.layers if layer.sqnr_db < EXACT_DB]
    drops, decibels = drop_axis(report), decibel_axis(noisy)
    worst = {id(layer) for layer in ranking(noisy)}
    return render(
        "bloodedge_convert.output",
        "conversion.html",
        report=report,
        tiles=_tiles(report),
        rows=[_row(verdict, report.verdicts) for verdict in report.verdicts],
        drops=[(_name(v.artifact), _drop_strip(drops, v.artifact.agreement)) for v in _int8(report)],
        drop_labels=axis_labels(drops),
        attempts=[_attempt(attempt) for attempt in report.attempts],
        layers=[(layer, _layer_strip(decibels, layer, worst=id(layer) in worst)) for layer in noisy],
        layer_labels=axis_labels(decibels),
        ranking=ranking(noisy),
        baseline=manifest.baseline,
        provenance=manifest.provenance,
    )


def _name(artifact: Artifact) -> str:
    return f"{ENGINES[artifact.engine]} {artifact.precision}"


def _int8(report: ConversionReport) -> list[Verdict]:
    return [verdict for verdict in report.verdicts if verdict.artifact.precision == "int8"]


def _tiles(report: ConversionReport) -> list[tuple[str, str, str]]:
    """Tiles with the loss and the gain of each int8 artifact: (what, value, note)."""
    tiles = []
    for verdict in _int8(report):
        artifact, name = verdict.artifact, _name(verdict.artifact)
        agreement = artifact.agreement
        note = f"{agreement.flips} of {agreement.cells} cells change class"
        tiles.append((f"{name} loses", f"{agreement.drop['weighted_f1']:.2f} points", note))
        if (gain := speed_up(artifact, report.verdicts)) is not None and artifact.evaluation.latency_ms is not None:
            p50 = milliseconds(artifact.evaluation.latency_ms.p50)
            tiles.append((f"{name}, speed", f"{gain:.2f}x", f"of float32's; {p50} ms a cell"))
    return tiles


def speed_up(artifact: Artifact, verdicts: list[Verdict]) -> float | None:
    """Speed-up of an artifact over its engine's float32, by p50."""
    ours = artifact.evaluation.latency_ms
    for verdict in verdicts:
        other = verdict.artifact
        theirs = other.evaluation.latency_ms
        if other.engine == artifact.engine and other.precision == "float32" and other != artifact and ours and theirs:
            return theirs.p50 / ours.p50
    return None


def _row(verdict: Verdict, verdicts: list[Verdict]) -> tuple[str, ...]:
    """The artifact's figures in words, and why it was left out."""
    artifact, latency = verdict.artifact, verdict.artifact.evaluation.latency_ms
    agreement, gain = artifact.agreement, speed_up(artifact, verdicts)
    mean = agreement.mean_probability_difference
    return (
        _name(artifact),
        verdict.left_out or "",
        artifact.evaluation.text("weighted_f1"),
        _drop(agreement, "weighted_f1"),
        artifact.evaluation.text("auc"),
        _drop(agreement, "auc"),
        _drop(agreement, "balanced_accuracy"),
        _flips(agreement),
        DASH if mean is None else f"{mean:.2g}",
        f"{agreement.max_probability_difference:.1g}",
        f"{artifact.size_bytes / 1e6:.2f}",
        DASH if latency is None else milliseconds(latency.p50),
        DASH if latency is None else milliseconds(latency.p95),
        DASH if gain is None else f"{gain:.2f}x",
    )


def _drop(agreement: Agreement, name: str) -> str:
    limits = agreement.drop_ci95.get(name)
    return lost(agreement, name) + ("" if limits is None else f" [{limits[0]:+.2f}, {limits[1]:+.2f}]")


def _attempt(attempt: Attempt) -> tuple[str, ...]:
    """The engine, the method, its figures on validation and on held-out cells, and the outcome."""
    looked = attempt.held_out
    return (
        ENGINES[attempt.kind.engine],
        f"{attempt.method}: {DESCRIPTIONS[attempt.method]}",
        f"{attempt.distance:.4f}",
        _flips(attempt.trial),
        DASH if looked is None else _flips(looked),
        *(DASH if looked is None else lost(looked, name) for name in ("weighted_f1", "auc")),
        "over a limit" if attempt.complaint else "taken",
    )


def _flips(agreement: Agreement) -> str:
    return f"{agreement.flips} ({100 * agreement.flip_rate:.2f} %)"


def drop_axis(report: ConversionReport) -> Axis:
    """Points of weighted F1 around every drop, its interval and the limit, in whole steps."""
    values = [0.0, report.limits.max_drop]
    for verdict in _int8(report):
        agreement = verdict.artifact.agreement
        values += [agreement.drop["weighted_f1"], *agreement.drop_ci95.get("weighted_f1", ())]
    return _axis(min(values), max(values), (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 25.0), "{:g}")


def decibel_axis(layers: list[LayerNoise]) -> Axis:
    """From 0 dB (noise as strong as signal), or lower, to the cleanest layer."""
    values = [layer.sqnr_db for layer in layers] or [0.0]
    return _axis(min(0.0, *values), max(40.0, *values), (10.0, 20.0), "{:g} dB")


def _axis(low: float, high: float, steps: tuple[float, ...], label: str) -> Axis:
    step = next((s for s in steps if (high - low) / s <= 6), steps[-1])
    first, last = int(low // step), -int(-high // step)
    ticks = tuple((n * step, label.format(round(n * step, 6))) for n in range(first, max(last, first + 1) + 1))
    return Axis(ticks[0][0], ticks[-1][0], ticks)


def _drop_strip(axis: Axis, agreement: Agreement) -> Markup:
    drop = agreement.drop["weighted_f1"]
    return interval_strip(axis, drop, agreement.drop_ci95.get("weighted_f1"), "device", f"{drop:+.2f} points")


def _layer_strip(axis: Axis, layer: LayerNoise, *, worst: bool) -> Markup:
    return bar_strip(axis, layer.sqnr_db, "blast" if worst else "normal", f"{layer.sqnr_db:.1f} decibels")


def ranking(layers: list[LayerNoise]) -> list[LayerNoise]:
    """The layers that add most noise of their own, largest first."""
    return sorted((layer for layer in layers if layer.added > 0), key=lambda layer: -layer.added)[:WORST]
