"""A head's penalty: log loss and AUC on people held back in turn, for each penalty that was tried."""

from typing import Any

from bloodedge.bundle.run_record import RunRecord
from bloodedge_train.figures.drawing import BLACK, BLAST

NAME = "penalties"
INCHES = 7.4, 3.4


def paint(figure: Any, record: RunRecord) -> None:
    """Two panels on ``figure``; a line marks the penalty that was taken."""
    loss, area = figure.subplots(1, 2)
    tried = [row["penalty"] for row in record.history]
    for axes, key, name in ((loss, "val_loss", "log loss"), (area, "val_auc", "AUC")):
        axes.plot(tried, [row[key] for row in record.history], color=BLACK, marker="o", markersize=3)
        axes.axvline(tried[record.best_epoch - 1], color=BLAST, linewidth=1, linestyle=":", label="taken")
        axes.set(xlabel="penalty", xscale="log", ylabel=f"{name}, people held back in turn")
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(f"{record.name}: penalty {tried[record.best_epoch - 1]:g}", fontsize=11)
