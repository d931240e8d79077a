"""ROC and precision-recall curves, one line for each held-out part."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.bundle.run_record import RunMetrics
from bloodedge_train.figures.drawing import PALE, PART_COLOURS, PART_LINES, with_interval

INCHES = 4.8, 5.2
Floats = NDArray[np.float64]
Labels = dict[str, NDArray[np.int64]]


def thresholds(labels: NDArray[np.int64], blast: Floats) -> tuple[Floats, Floats]:
    """Blasts found and false alarms (K + 1,) as the threshold falls past each of the K distinct probabilities."""
    order = np.argsort(-blast, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(blast[order])), len(blast) - 1)
    found = np.cumsum(labels[order])[ends]
    alarms = ends + 1 - found
    return np.append(0.0, found), np.append(0.0, alarms)


def paint_roc(figure: Any, metrics: RunMetrics, labels: Labels, blasts: dict[str, Floats]) -> None:
    """Sensitivity by 1 - specificity."""
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=PALE, linewidth=1)
    for name in _with_both_classes(labels):
        found, alarms = thresholds(labels[name], blasts[name])
        area = with_interval(metrics.parts[name].auc or 0, metrics.parts[name].ci95.get("auc"))
        axes.plot(alarms / alarms[-1], found / found[-1], **_line(name, f"{name}: AUC {area}"))
    axes.set(xlabel="1 - specificity", ylabel="sensitivity for blasts", title="ROC")
    _finish(figure, axes)


def paint_pr(figure: Any, metrics: RunMetrics, labels: Labels, blasts: dict[str, Floats]) -> None:
    """Precision by recall, in steps; a dotted line shows the share of blasts, which is what chance gives."""
    axes = figure.subplots()
    for name in _with_both_classes(labels):
        found, alarms = thresholds(labels[name], blasts[name])
        precision = found[1:] / (found[1:] + alarms[1:])
        area = with_interval(metrics.parts[name].pr_auc or 0, metrics.parts[name].ci95.get("pr_auc"))
        recall = found / found[-1]
        axes.step(
            recall, np.append(precision[0], precision), where="pre", **_line(name, f"{name}: average precision {area}")
        )
        axes.axhline(float(labels[name].mean()), color=PART_COLOURS[name], linewidth=0.8, linestyle=":")
    axes.set(xlabel="recall of blasts (sensitivity)", ylabel="precision", title="Precision and recall")
    _finish(figure, axes)


def _with_both_classes(labels: Labels) -> list[str]:
    return [name for name, of_part in labels.items() if 0 < of_part.sum() < len(of_part)]


def _line(name: str, label: str) -> dict[str, Any]:
    return {"color": PART_COLOURS[name], "linestyle": PART_LINES[name], "linewidth": 1.5, "label": label}


def _finish(figure: Any, axes: Any) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", frameon=False, fontsize=9)
