"""The cells of a run that conversion needs: to calibrate, to choose a method, and to judge."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bloodedge.bundle.run_record import RunRecord
from bloodedge.console import Progress
from bloodedge.data.dataset import CellFile, inputs, owners, read_dataset
from bloodedge.data.fitted_pictures import FittedPictures, held_out
from bloodedge.data.split import SplitSpec, recall
from bloodedge.decision.domain import Domain
from bloodedge.errors import UsageError
from bloodedge.evaluation.filmed import Filmed, film
from bloodedge.text import as_path
from bloodedge_convert.cells.calibration_set import choose_cells, full_range
from bloodedge_convert.cells.training_profile import hold_back, training_domain
from bloodedge_convert.job import Report

TRIAL_CELLS = 400
"""Validation cells by which an int8 method is chosen."""
JUDGED_CELLS = 1500
"""Of a run that was fitted to everybody: cells that it is judged on, by networks that were fitted to the others."""
TUNING_CELLS = 2000
"""Training cells for fine-tuning."""

Images = NDArray[np.uint8]
"""Network inputs (N, H, W, 3) RGB."""


@dataclass(frozen=True)
class Part:
    """Cells with their network inputs."""

    cells: list[CellFile]
    images: Images

    @property
    def labels(self) -> list[int]:
        """1 for a blast."""
        return [cell.label for cell in self.cells]

    @property
    def subjects(self) -> list[str]:
        """The person of each cell."""
        return owners(self.cells)


@dataclass(frozen=True)
class Folds:
    """Which of a run's judging networks was fitted to nobody of a cell's group."""

    of_group: dict[str, int]
    group: Callable[[CellFile], str]

    def choose(self, outputs: NDArray[np.float32], cells: Sequence[CellFile]) -> NDArray[np.float32]:
        """Each cell's outputs (N, classes) by its own judging network, of all networks' (N, folds, classes)."""
        return outputs[np.arange(len(cells)), [self.of_group[self.group(cell)] for cell in cells]]


@dataclass(frozen=True)
class Cells:
    """A run's cells by purpose."""

    calibration: Part
    """Training cells; one image is raised to the full range of a camera byte."""
    trial: Part
    tuning: Part
    """Empty where fine-tuning is not allowed."""
    test: Part
    domain: Domain | None
    """The training cells' domain; None where they are too few."""
    filmed: Filmed
    """Cells of the test and validation parts as a camera shows them."""
    fitted: FittedPictures
    folds: Folds | None = None
    """For a run that was fitted to everybody: what judges it."""


def read_cells(record: RunRecord, data: Path | None, calibration: int, *, tuning: bool, report: Report) -> Cells:
    """Read the data of ``record``'s run, from ``data`` if they have moved.

    Raises UsageError when the data are missing or changed.
    """
    root = data or as_path(record.data.root)
    if not root.is_dir() and data is None:
        raise UsageError(f"The run's data are no longer at {root}; give the folder: bloodedge convert RUN DATA ...")
    dataset = read_dataset(root, _step(report, "Reading cells"), record.data.layout)
    if dataset.fingerprint != record.data.fingerprint:
        raise UsageError(f"{root} is not what the run was fitted to (its images differ); give that folder.")
    spec = SplitSpec.model_validate(record.recipe.get("split", {}))
    parts = recall(dataset, record.split, spec)
    fitted = FittedPictures.of(parts)
    if not record.split.leaky:
        parts = held_out(spec.grouped(dataset), parts, fitted)

    def part(cells: list[CellFile], what: str) -> Part:
        return Part(cells, inputs(cells, record.imaging, _step(report, what)))

    chosen = part(choose_cells(parts["train"], calibration, record.seed), "Calibration cells")
    taken = {cell.name for cell in chosen.cells}
    validation = parts.get("validation", [])
    known = parts if validation else hold_back(parts["train"], spec.grouped(dataset).group)
    spare = validation or [cell for cell in parts["train"] if cell.name not in taken] or parts["train"]
    folds = _folds(record, spec.grouped(dataset).group)
    if folds:
        others = [cell for cell in parts["train"] if cell.name not in taken]
        parts = parts | {"test": choose_cells(others or parts["train"], JUDGED_CELLS, record.seed)}
    test = part(parts["test"], "Held-out cells")
    return Cells(
        calibration=Part(chosen.cells, full_range(chosen.images)),
        trial=part(choose_cells(spare, TRIAL_CELLS, record.seed), "Cells to choose a method by"),
        tuning=part(choose_cells(parts["train"], TUNING_CELLS if tuning else 0, record.seed), "Cells to fine-tune on"),
        test=test,
        domain=training_domain(known, test.images, record.imaging, record.seed, _step(report, "Domain")),
        filmed=film(parts["test"], validation, record.imaging, record.seed, _step(report, "Cells of unseen people")),
        fitted=fitted,
        folds=folds,
    )


def _folds(record: RunRecord, group: Callable[[CellFile], str]) -> Folds | None:
    if record.cross_validation is None:
        return None
    of_group = {name: number for number, held in enumerate(record.cross_validation.folds) for name in held}
    return Folds(of_group, group)


def _step(report: Report, what: str) -> Progress:
    return lambda done, total: report(what, done, total)
