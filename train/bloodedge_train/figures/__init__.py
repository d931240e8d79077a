"""The pictures of a run folder: one file per kind of picture."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.bundle.run_record import CHOSEN_BY, RunMetrics, RunRecord
from bloodedge.data.dataset import read_input
from bloodedge.imaging import first_view
from bloodedge_train.figures import calibration, confusion, curves, learning, montage, penalties, people
from bloodedge_train.figures.drawing import draw

if TYPE_CHECKING:
    from bloodedge_train.fitted import Scored

Floats = NDArray[np.float64]


def draw_all(
    folder: Path,
    record: RunRecord,
    metrics: RunMetrics,
    scored: dict[str, "Scored"],
    blasts: dict[str, Floats],
    uncalibrated: dict[str, Floats],
) -> None:
    """Write every figure of a run as PNG.

    blasts, uncalibrated: blast probabilities (N,) by part, after and before the temperature.
    """
    labels = {name: scored[name].labels for name in blasts}
    given: dict[str, Any] = {"metrics": metrics, "labels": labels, "blasts": blasts}
    how = penalties if "penalty" in record.history[0] else learning
    draw(folder / f"{how.NAME}.png", how.INCHES, partial(how.paint, record=record))
    draw(folder / "roc.png", curves.INCHES, partial(curves.paint_roc, **given))
    draw(folder / "precision_recall.png", curves.INCHES, partial(curves.paint_pr, **given))
    reliability = partial(calibration.paint, record=record, uncalibrated=uncalibrated, **given)
    draw(folder / "reliability.png", calibration.INCHES, reliability)
    for name, evaluation in metrics.parts.items():
        shown: dict[str, Any] = {"evaluation": evaluation, "name": name}
        draw(folder / f"confusion_{name}.png", confusion.INCHES, partial(confusion.paint, **shown))
        draw(folder / f"subjects_{name}.png", people.inches(evaluation), partial(people.paint, **shown))
        if name not in CHOSEN_BY:
            _draw_montage(folder, record, name, scored[name], blasts[name])


def _draw_montage(folder: Path, record: RunRecord, name: str, part: "Scored", blast: Floats) -> None:
    rows = montage.choose(part.labels, blast, record.thresholds.blast)
    shown = {int(number) for row in rows for number in row.cells}
    images = {number: first_view(read_input(part.cells[number], record.imaging)) for number in shown}
    subjects = [cell.subject for cell in part.cells]
    paint = partial(montage.paint, images=images, subjects=subjects, blast=blast, rows=rows, name=name)
    draw(folder / f"montage_{name}.png", montage.INCHES, paint)
