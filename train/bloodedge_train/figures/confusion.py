"""The confusion matrix as a heat map."""

from typing import Any

import numpy as np

from bloodedge.bundle.evaluation_record import Evaluation
from bloodedge.decision.thresholds import LABELS

INCHES = 4.8, 4.0


def paint(figure: Any, evaluation: Evaluation, name: str) -> None:
    """Counts, and shares of each true class."""
    axes = figure.subplots()
    counts = np.array(evaluation.confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    picture = axes.imshow(shares, cmap="Purples", vmin=0, vmax=1)
    for row in range(2):
        for column in range(2):
            colour = "white" if shares[row, column] > 0.5 else "black"
            text = f"{counts[row, column]:,}\n{shares[row, column]:.1%}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=12)
    axes.set_xticks([0, 1], LABELS)
    axes.set_yticks([0, 1], LABELS, rotation=90, va="center")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set(xlabel="called", ylabel="true")
    figure.colorbar(picture, ax=axes, label="share of the true class").outline.set_visible(False)
    leaky = " (leaky)" if evaluation.leaky else ""
    figure.suptitle(
        f"{name}{leaky}: accuracy {evaluation.accuracy:.3f}, weighted F1 {evaluation.weighted_f1:.3f}", fontsize=11
    )
