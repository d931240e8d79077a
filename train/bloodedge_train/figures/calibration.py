"""Reliability before and after the temperature, over the numbers of cells that it rests on."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.bundle.run_record import RunMetrics, RunRecord
from bloodedge.metrics import ECE_BINS
from bloodedge_train.figures.drawing import PALE, PART_COLOURS

INCHES = 8.4, 6.2
FEWEST = 5
"""Fewest cells of a bin that is shown."""
Floats = NDArray[np.float64]


def paint(
    figure: Any,
    record: RunRecord,
    metrics: RunMetrics,
    labels: dict[str, NDArray[np.int64]],
    blasts: dict[str, Floats],
    uncalibrated: dict[str, Floats],
) -> None:
    """Share of blasts by predicted probability; below, the number of cells in each bin."""
    from matplotlib.lines import Line2D

    panels = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=[3, 1])
    titles = "before the temperature", f"after the temperature ({record.temperature:.2f})"
    for column, (title, predicted) in enumerate(zip(titles, (uncalibrated, blasts), strict=True)):
        share, count = panels[:, column]
        share.plot([0, 1], [0, 1], color=PALE, linewidth=1)
        for name, probabilities in predicted.items():
            _paint_part(share, count, PART_COLOURS[name], probabilities, labels[name])
        share.set(title=title, ylim=(-0.03, 1.03))
        count.set(xlabel="predicted probability of blast", xlim=(-0.02, 1.02), yscale="log", ylim=(0.7, None))
    panels[0, 0].set_ylabel("share of blasts")
    panels[1, 0].set_ylabel("cells")
    lines = [Line2D([], [], color=PART_COLOURS[name], marker="o", label=_label(metrics, name)) for name in blasts]
    figure.legend(handles=lines, loc="outside lower center", frameon=False, fontsize=9)


def _label(metrics: RunMetrics, name: str) -> str:
    evaluation = metrics.parts[name]
    before = "" if evaluation.ece_before is None else f"{evaluation.ece_before:.3f} before, "
    return f"{name}: expected calibration error {before}{evaluation.ece:.3f} after"


def _paint_part(share: Any, count: Any, colour: str, predicted: Floats, labels: NDArray[np.int64]) -> None:
    bins = np.clip((predicted * ECE_BINS).astype(int), 0, ECE_BINS - 1)
    counts = np.bincount(bins, minlength=ECE_BINS)
    shown = counts >= FEWEST
    mean = np.bincount(bins, predicted, ECE_BINS)[shown] / counts[shown]
    true = np.bincount(bins, labels, ECE_BINS)[shown] / counts[shown]
    share.plot(mean, true, "o-", color=colour, markersize=4)
    count.stairs(np.maximum(counts, 0.1), np.linspace(0, 1, ECE_BINS + 1), color=colour, linewidth=1.5)
