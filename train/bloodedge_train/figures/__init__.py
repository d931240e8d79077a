"""The pictures of a run folder: one file per kind of picture."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.bundle.run_record import RunMetrics, RunRecord
from bloodedge.data.dataset import CellFile
from bloodedge.data.split import Parts
from bloodedge_train.figures import calibration, confusion, curves, learning, montage, people
from bloodedge_train.figures.drawing import draw

if TYPE_CHECKING:
    from bloodedge_train.fitting.fit import Samples

Floats = NDArray[np.float64]


def draw_all(
    folder: Path,
    record: RunRecord,
    metrics: RunMetrics,
    parts: Parts,
    samples: dict[str, "Samples"],
    blasts: dict[str, Floats],
    uncalibrated: dict[str, Floats],
) -> None:
    """Write every figure of a run as PNG.

    blasts, uncalibrated: blast probabilities (N,) by part, after and before the temperature.
    """
    labels = {name: samples[name].labels for name in blasts}
    scored: dict[str, Any] = {"metrics": metrics, "labels": labels, "blasts": blasts}
    draw(folder / "learning_curves.png", learning.INCHES, partial(learning.paint, record=record))
    draw(folder / "roc.png", curves.INCHES, partial(curves.paint_roc, **scored))
    draw(folder / "precision_recall.png", curves.INCHES, partial(curves.paint_pr, **scored))
    reliability = partial(calibration.paint, record=record, uncalibrated=uncalibrated, **scored)
    draw(folder / "reliability.png", calibration.INCHES, reliability)
    for name, evaluation in metrics.parts.items():
        shown: dict[str, Any] = {"evaluation": evaluation, "name": name}
        draw(folder / f"confusion_{name}.png", confusion.INCHES, partial(confusion.paint, **shown))
        draw(folder / f"subjects_{name}.png", people.inches(evaluation), partial(people.paint, **shown))
        if name != "validation":
            _draw_montage(folder, record, name, parts[name], samples[name], blasts[name])


def _draw_montage(
    folder: Path, record: RunRecord, name: str, cells: list[CellFile], samples: "Samples", blast: Floats
) -> None:
    subjects = [cell.subject for cell in cells]
    rows = montage.choose(samples.labels, blast, record.thresholds.blast)
    paint = partial(montage.paint, images=samples.images, subjects=subjects, blast=blast, rows=rows, name=name)
    draw(folder / f"montage_{name}.png", montage.INCHES, paint)
