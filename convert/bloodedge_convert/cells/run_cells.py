"""The cells of a run that conversion needs: to calibrate, to choose a method, and to judge."""

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


def read_cells(record: RunRecord, data: Path | None, calibration: int, *, tuning: bool, report: Report) -> Cells:
    """Read the data of ``record``'s run, from ``data`` if they have moved.

    Raises UsageError when the data are missing or changed.
    """
    root = data or as_path(record.data.root)
    if not root.is_dir() and data is None:
        raise UsageError(f"The run's data are no longer at {root}; give the folder: bloodedge convert RUN DATA ...")
    dataset = read_dataset(root, _step(report, "Reading cells"))
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
    test = part(parts["test"], "Held-out cells")
    return Cells(
        calibration=Part(chosen.cells, full_range(chosen.images)),
        trial=part(choose_cells(spare, TRIAL_CELLS, record.seed), "Cells to choose a method by"),
        tuning=part(choose_cells(parts["train"], TUNING_CELLS if tuning else 0, record.seed), "Cells to fine-tune on"),
        test=test,
        domain=training_domain(known, test.images, record.imaging, record.seed, _step(report, "Domain")),
        filmed=film(parts["test"], validation, record.imaging, record.seed, _step(report, "Cells of unseen people")),
        fitted=fitted,
    )


def _step(report: Report, what: str) -> Progress:
    return lambda done, total: report(what, done, total)
