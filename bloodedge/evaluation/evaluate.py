"""Figures of a model on a folder of cells."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bloodedge.bench.latency import measure_latency
from bloodedge.bundle.data_layout import DataLayout
from bloodedge.bundle.evaluation_record import Evaluation
from bloodedge.console import Progress
from bloodedge.data.dataset import CNMC_LAYOUT, CellFile, check_readable, owners
from bloodedge.data.listing import ONE_PERSON
from bloodedge.evaluation.ensemble import Ensemble, predict
from bloodedge.evaluation.held_out import PartName, choose_cells, leaky
from bloodedge.evaluation.reading import read_for
from bloodedge.evaluation.scoring import score
from bloodedge.files import write_text

Floats = NDArray[np.float64]


class Scored(NamedTuple):
    """What ``evaluate`` found."""

    evaluation: Evaluation
    which: str
    """The cells, in words."""
    left_out: dict[str, str]
    """Name to reason of every picture that is left out; pictures of other parts are not listed."""
    notes: list[str]
    """What limits the figures, in sentences."""


def evaluate(
    ensemble: Ensemble,
    data: Path,
    part: PartName = "auto",
    progress: Progress | None = None,
    *,
    rescale: float = 1.0,
    turns: Literal[1, 8] = 1,
    predictions: Path | None = None,
    layout: DataLayout = CNMC_LAYOUT,
    allow_unreadable: bool = False,
) -> Scored:
    """Figures of ``ensemble`` on ``data``.

    rescale: each cell is resized by it first, as if it were larger or smaller. turns: 8 averages over a cell's flips
    and quarter turns. predictions: a CSV file that gets each cell's probability. layout: how ``data`` are laid out.
    Latency is measured of one classifier alone with one view. Raises UsageError when more than a tenth of the pictures
    cannot be used, unless ``allow_unreadable``.
    """
    dataset = read_for(ensemble.members, data, layout, progress)
    check_readable(dataset, allow=allow_unreadable)
    cells, which, left_out = choose_cells(ensemble, dataset, part)
    predicted = predict(ensemble, cells, rescale=rescale, turns=turns, progress=progress)
    if predictions:
        write_text(predictions, predictions_csv(cells, predicted.blast))
    evaluation = score(
        [c.label for c in cells],
        predicted.blast,
        owners(cells),
        threshold=ensemble.threshold,
        leaky=leaky(ensemble, dataset, cells),
        uncalibrated=predicted.uncalibrated,
        over_cells=set(owners(cells)) == {ONE_PERSON},
    )
    if len(ensemble.members) == 1 and turns == 1:
        latency = measure_latency(ensemble.members[0].engine, predicted.example)
        evaluation = evaluation.model_copy(update={"latency_ms": latency})
    changes = [f"each cell {rescale:g} times as large"] * (rescale != 1) + ["mean of 8 flips and turns"] * (turns == 8)
    notes = _notes(ensemble, cells, evaluation)
    return Scored(evaluation, ", ".join([which, *changes]), dataset.unreadable | left_out, notes)


def _notes(ensemble: Ensemble, cells: Sequence[CellFile], evaluation: Evaluation) -> list[str]:
    """What limits the figures, in sentences."""
    notes = [
        f"{member.name} was made by an older bloodedge, without digests of its training pictures: copies are not found."
        for member in ensemble.members
        if member.fitted is None
    ]
    unnamed = sum(not c.subject for c in cells)
    if unnamed:
        notes.append(
            f"{unnamed} of {len(cells)} cells have no subject in their name, so no figure has an interval; name files "
            "UID_<subject>_<image>_<cell>_<all|hem>, or add --subject RULE, or --one-person."
        )
    elif set(owners(cells)) == {ONE_PERSON}:
        notes.append("All cells are one person's: intervals are over these cells and do not hold for other people.")
    elif not evaluation.ci95:
        notes.append("No class has cells of two people, so no figure has an interval: it does not hold for new people.")
    return notes


def predictions_csv(cells: Sequence[CellFile], blast: Floats) -> str:
    """A table cell,subject,label,blast , a row for each cell: label 1 is a blast, blast its calibrated probability."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("cell", "subject", "label", "blast"))
    rows.writerows((c.name, c.subject, c.label, f"{p:.6f}") for c, p in zip(cells, blast, strict=True))
    return text.getvalue()
