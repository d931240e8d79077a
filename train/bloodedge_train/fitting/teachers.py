"""Teachers: finished runs whose soft outputs a student learns from (Hinton et al., 2015).

Each teacher sees the very picture that the student sees, changes and all, resized to its own input ("function
matching": Beyer et al., "Knowledge distillation: a good teacher is patient and consistent", CVPR 2022).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bloodedge.bundle.run_record import RunRecord, SplitRecord, read_run
from bloodedge.data.dataset import CellFile, natural
from bloodedge.data.fitted_pictures import read_fitted_of_run
from bloodedge.decision.thresholds import LABELS
from bloodedge.engine.keras import load_model
from bloodedge.errors import UsageError
from bloodedge_train.recipe import Recipe

ALIKE = ("scale", "light", "denoise", "colour")


def open_teachers(runs: Sequence[Path], recipe: Recipe, split: SplitRecord, held: Sequence[CellFile]) -> list[Any]:
    """The teachers' Keras models.

    held: the cells that the student is scored on. Raises UsageError for a teacher with other labels, with other
    imaging, or that has seen these cells or their people.
    """
    for run in runs:
        record = read_run(run)
        _check_labels(run, record)
        _check_imaging(run, record, recipe)
        _check_people(run, record, split)
        if not split.leaky:
            _check_pictures(run, record, held)
    return [load_model(run) for run in runs]


def _check_labels(run: Path, record: RunRecord) -> None:
    if record.labels != list(LABELS):
        raise UsageError(
            f"Teacher {run} tells {', '.join(record.labels)} apart, the student {', '.join(LABELS)}; "
            "choose a teacher with the same labels."
        )


def _check_imaging(run: Path, record: RunRecord, recipe: Recipe) -> None:
    theirs, ours = record.imaging, recipe.imaging
    other = [name for name in ALIKE if getattr(theirs, name) != getattr(ours, name)]
    if theirs.scale == "physical":
        side = ours.size_px * ours.um_per_px
        if abs(theirs.size_px * theirs.um_per_px / side - 1) > 0.01:
            other.append("field of view")
    elif theirs.area_fraction != ours.area_fraction:
        other.append("area_fraction")
    if other:
        raise UsageError(
            f"Teacher {run} was fitted to cells with another {' and another '.join(other)}; it must see what the "
            "student sees (only size_px may differ)."
        )


def _check_people(run: Path, record: RunRecord, split: SplitRecord) -> None:
    """No cell that the student is scored on may have been fitted to by a teacher."""
    if split.leaky:
        if record.split.parts["test"].digest != split.parts["test"].digest:
            raise UsageError(f"Teacher {run} was fitted on another split by image; fit it with the same seed and data.")
        return
    seen = {s for name in ("train", "validation") for s in record.split.parts[name].subjects}
    held = {s for name in ("test", "shift") if name in split.parts for s in split.parts[name].subjects}
    known = sorted(held & seen, key=natural)
    if known:
        raise UsageError(
            f"Teacher {run} has seen {', '.join(known)}, for whom the student's figures are held out; "
            "use a teacher fitted on the same split."
        )


def _check_pictures(run: Path, record: RunRecord, held: Sequence[CellFile]) -> None:
    """People may have other names in the teacher's data."""
    fitted = read_fitted_of_run(run, record)
    same = fitted.copies(held)[0] if fitted else set()
    if same:
        raise UsageError(
            f"Teacher {run} was fitted to {len(same)} of the {len(held)} pictures that are held out for the student's "
            f"figures, such as {min(same)}; use a teacher fitted on the same split."
        )
