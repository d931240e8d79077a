"""The confusion matrix as a heat map."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bloodedge.bundle.evaluation_record import Evaluation
from bloodedge.decision.thresholds import LABELS

INCHES = 4.8, 4.0


def paint(figure: Any, evaluation: Evaluation, name: str) -> None:
    """Counts, and shares of each true class."""
    axes = figure.subplots()
    picture = paint_matrix(axes, evaluation.confusion, "Purples", ("white", "black"), fontsize=12)
    figure.colorbar(picture, ax=axes, label="share of the true class").outline.set_visible(False)
    leaky = " (leaky)" if evaluation.leaky else ""
    figure.suptitle(
        f"{name}{leaky}: accuracy {evaluation.accuracy:.3f}, weighted F1 {evaluation.weighted_f1:.3f}", fontsize=11
    )


def paint_matrix(
    axes: Any, confusion: Sequence[Sequence[int]], colours: Any, inks: tuple[str, str], fontsize: float
) -> Any:
    """Counts, and shares of each true class, (2, 2) true by called; gives the picture of the shares.

    colours: Matplotlib's colour map; inks: the text's colour on dark and on light squares.
    """
    counts = np.array(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    picture = axes.imshow(shares, cmap=colours, vmin=0, vmax=1)
    for (true, called), share in np.ndenumerate(shares):
        text = f"{counts[true, called]:,}\n{share:.1%}"
        axes.text(called, true, text, ha="center", va="center", color=inks[int(share <= 0.5)], fontsize=fontsize)
    axes.set_xticks([0, 1], LABELS)
    axes.set_yticks([0, 1], LABELS, rotation=90, va="center")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set(xlabel="called", ylabel="true")
    return picture
