"""Learning curves: loss, validation figures and learning rate by epoch."""

from typing import Any

from bloodedge.bundle.run_record import RunRecord
from bloodedge_train.figures.drawing import BLACK, BLAST, GREY, NORMAL

NAME = "learning_curves"
INCHES = 11.0, 3.4


def paint(figure: Any, record: RunRecord) -> None:
    """Three panels on ``figure``; a line marks the best epoch."""
    from matplotlib.ticker import MaxNLocator

    loss, scores, rate = figure.subplots(1, 3)
    marker = "o" if len(record.history) < 10 else ""
    for axes, key, colour, label in (
        (loss, "loss", GREY, "training"),
        (loss, "val_loss", BLACK, "validation"),
        (scores, "val_auc", BLACK, "AUC"),
        (scores, "val_accuracy", NORMAL, "accuracy"),
        (rate, "learning_rate", BLACK, ""),
    ):
        rows = [row for row in record.history if key in row]
        axes.plot(
            [row["epoch"] for row in rows],
            [row[key] for row in rows],
            color=colour,
            marker=marker,
            markersize=3,
            label=label,
        )
    loss.set(ylabel="loss", title="Loss")
    scores.set(ylabel="on validation", title="Validation")
    rate.set(ylabel="learning rate", title="Learning rate", yscale="log")
    for axes in (loss, scores, rate):
        axes.axvline(record.best_epoch, color=BLAST, linewidth=1, linestyle=":", label="best epoch")
        axes.set(xlabel="epoch", xlim=(0, len(record.history) + 1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(f"{record.name}: best epoch {record.best_epoch} of {len(record.history)}", fontsize=11)
