"""A sweep as parallel coordinates: one line for each setting, one axis for each varied key."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bloodedge_train.figures.drawing import GREY, draw
from bloodedge_train.sweep.ranking import Row, Table

MARGIN = 0.03
"""Of an axis' height, above its largest and below its smallest value."""
SPREAD = 0.05
"""Lines through one value are fanned out over this share of the axis' height."""


@dataclass(frozen=True)
class Axis:
    """An upright axis: where each line crosses it and where its labels stand, 0..1 from the bottom."""

    title: str
    places: list[float]
    ticks: list[tuple[float, str]]


def draw_settings(path: Path, table: Table, *, leaky: bool) -> None:
    """Write the picture; settings without a figure are left out."""
    rows = [row for row in table.rows if row.validation_auc is not None]
    axes = [_axis("model", [row.model for row in rows])]
    axes += [_axis(key, [row.values[key] for row in rows]) for key in table.varied]
    axes = [axis for axis in axes if len(axis.ticks) > 1]
    aucs = [row.validation_auc or 0.0 for row in rows]
    if rows:
        axes.append(_scale("validation AUC", aucs))
    title = (
        "No trial has a figure yet" if not rows else "Settings by validation AUC" + (" (leaky split)" if leaky else "")
    )
    draw(path, (max(6.0, 1.9 * len(axes) + 1.5), 4.6), lambda figure: _paint(figure, rows, axes, aucs, title))


def _axis(title: str, values: Sequence[Any]) -> Axis:
    """Few different values are spaced evenly; many numbers get a scale."""
    different = {json.dumps(value): value for value in values}
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if numbers and len(different) > 6:
        return _scale(title, [float(v) for v in values])
    ordered = sorted(different.values()) if numbers else list(different.values())
    at = {json.dumps(v): (n + 0.5) / len(ordered) for n, v in enumerate(ordered)}
    ticks = [(at[json.dumps(v)], v if isinstance(v, str) else f"{v:g}" if numbers else json.dumps(v)) for v in ordered]
    return Axis(title, _fanned([at[json.dumps(v)] for v in values]), ticks)


def _fanned(places: Sequence[float]) -> list[float]:
    """Places of lines that cross at one value, in order of the lines, spread so that each can be followed."""
    fanned = np.array(places, np.float64)
    for place in set(places):
        members = np.flatnonzero(np.array(places) == place)
        fanned[members] += np.linspace(SPREAD, -SPREAD, len(members)) if len(members) > 1 else 0
    return [float(place) for place in fanned]


def _scale(title: str, values: Sequence[float]) -> Axis:
    """A linear or a logarithmic scale, whichever has its values' mean nearer the middle."""
    low, high = min(values), max(values)
    if low == high:
        return Axis(title, [0.5] * len(values), [(0.5, f"{low:.3g}")])
    shares = (np.array(values) - low) / (high - low)
    marks = np.linspace(low, high, 5)
    if low > 0:
        by_log = np.log(np.array(values) / low) / np.log(high / low)
        if abs(by_log.mean() - 0.5) < abs(shares.mean() - 0.5):
            shares, marks = by_log, np.geomspace(low, high, 5)
    ticks = [(MARGIN + (1 - 2 * MARGIN) * n / 4, f"{mark:.3g}") for n, mark in enumerate(marks)]
    return Axis(title, [float(MARGIN + (1 - 2 * MARGIN) * share) for share in shares], ticks)


def _paint(figure: Any, rows: Sequence[Row], axes: Sequence[Axis], aucs: Sequence[float], title: str) -> None:
    import matplotlib as mpl

    plain = figure.subplots()
    plain.set(xlim=(-0.25, len(axes) - 0.6), ylim=(-0.02, 1.08))
    plain.set_axis_off()
    plain.set_title(title, fontsize=11, loc="left")
    colours = mpl.colormaps["viridis_r"]
    low, high = (min(aucs), max(aucs)) if aucs else (0.0, 1.0)
    for number in reversed(range(len(rows))):  # the best line is drawn last
        whole = rows[number].finished == rows[number].trials
        share = (aucs[number] - low) / (high - low) if high > low else 1.0
        plain.plot(
            range(len(axes)),
            [axis.places[number] for axis in axes],
            color=colours(0.2 + 0.75 * share) if whole else "#b5b5b5",
            linestyle="-" if whole else (0, (4, 2)),
            linewidth=2.8 if number == 0 else 1.3,
            alpha=1.0 if number == 0 else 0.75,
        )
    for place, axis in enumerate(axes):
        plain.plot([place, place], [0, 1], color="#333333", linewidth=1)
        plain.text(place, 1.04, axis.title, ha="center", va="bottom", fontsize=9)
        for height, label in axis.ticks:
            plain.text(place + 0.04, height, label, fontsize=8, va="center", bbox=_BACKING, zorder=5)
    if any(row.finished < row.trials for row in rows):
        plain.text(0, -0.05, "dashed: some trials were pruned or failed", fontsize=8, color=GREY, va="top")


_BACKING = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1}
