"""The chart of ``bloodedge shortcuts``."""

from pathlib import Path
from typing import Any

from bloodedge_train.explain.alterations import ALTERATIONS
from bloodedge_train.explain.cues import CUES
from bloodedge_train.explain.shortcuts import MODEL, ShortcutAudit


def draw_chart(path: Path, audit: ShortcutAudit) -> None:
    """A PNG: AUC of the model and of each cue, and the model's accuracy on altered cells, by part."""
    from bloodedge_train.figures.drawing import draw

    rows = max(len(CUES) + 1, len(ALTERATIONS))
    draw(path, (10, 1.5 + 0.17 * rows * (1 + len(audit.cells))), lambda figure: _chart(figure, audit))


def _chart(figure: Any, audit: ShortcutAudit) -> None:
    left, right = figure.subplots(1, 2)
    left.axvline(0.5, color="#999999", linewidth=1, linestyle=":")
    _dots(left, audit, [MODEL, *CUES], {(c.part, c.cue): (c.auc, c.auc_ci95) for c in audit.cues})
    left.set(xlabel="AUC", title="What alone predicts the class")
    found = {(a.part, a.alteration): (a.accuracy, a.accuracy_ci95) for a in audit.altered}
    _dots(right, audit, list(ALTERATIONS), found)
    right.set(xlabel="accuracy", title="The model on altered cells")
    handles, names = left.get_legend_handles_labels()
    seen = " (leaky: split by image)" if audit.leaky else ": people never seen"
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    figure.suptitle(f"{audit.run}{seen}", fontsize=11)


def _dots(axes: Any, audit: ShortcutAudit, names: list[str], found: dict[tuple[str, str], Any]) -> None:
    """A dot with its interval for each name and part, the first name on top."""
    from bloodedge_train.figures.drawing import PART_COLOURS

    for number, (part, cells) in enumerate(audit.cells.items()):
        shift = 0.16 * (2 * number - len(audit.cells) + 1)
        label = f"{part}: {cells:,} cells of {audit.subjects[part]} people"
        for place, name in enumerate(names):
            value, limits = found[part, name]
            if limits is not None:
                axes.plot(limits, [place + shift] * 2, color=PART_COLOURS[part], linewidth=1.5, alpha=0.5)
            if value is not None:
                axes.plot(value, place + shift, "o", color=PART_COLOURS[part], label="" if place else label)
                axes.annotate(
                    f"{value:.2f}",
                    (1.02, place + shift),
                    xycoords=("axes fraction", "data"),
                    va="center",
                    color=PART_COLOURS[part],
                    fontsize=9,
                )
    axes.set_yticks(range(len(names)), names)
    axes.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5))
    axes.grid(axis="x", color="#eeeeee")
