"""The bench's reviewed cells, and whether a model can be fitted to them."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bloodedge.bundle import Bundle
from bloodedge.bundle.data_layout import DataLayout
from bloodedge.data.dataset import CellFile, Dataset, read_dataset
from bloodedge.data.fitted_pictures import read_fitted_of_bundle
from bloodedge.data.perceptual_hash import alike_pairs, hash_rows
from bloodedge.data.pictures import in_threads
from bloodedge.data.training_features import TrainingFeatures
from bloodedge.decision.domain import describe
from bloodedge.decision.thresholds import LABELS
from bloodedge.errors import UsageError
from bloodedge.imaging import ImagingSpec, network_input
from bloodedge_convert.job import Report

FEWEST_CELLS = 10
"""Of each class."""
FEWEST_SLIDES = 2
"""With cells of a class: one to fit to and one to judge by."""
MOST_CONTRADICTIONS = 0.02
"""Of the cells: more answers that contradict each other are no slips."""
MOST_APART = 3.0
"""Times as large as another slide's cells in area: C-NMC's people differ by 2.2."""


@dataclass(frozen=True, eq=False)
class BenchCells:
    """N cells that somebody named."""

    files: list[CellFile]
    images: NDArray[np.uint8]
    """Network inputs (N, *ImagingSpec.input_shape), RGB."""
    labels: NDArray[np.int64]
    """(N,), 1 for a blast."""
    slides: NDArray[np.str_]
    """(N,): the slide, or the person where the data say whose a cell is; the cell's own name where they do not."""
    figures: NDArray[np.float64]
    """(N, 41), of bloodedge.decision.domain.describe."""
    areas_um2: NDArray[np.float64]
    warnings: list[str]

    def some(self, chosen: NDArray[np.bool_]) -> "BenchCells":
        """Those of the cells that are chosen (N,)."""
        return BenchCells(
            files=[file for file, yes in zip(self.files, chosen, strict=True) if yes],
            images=self.images[chosen],
            labels=self.labels[chosen],
            slides=self.slides[chosen],
            figures=self.figures[chosen],
            areas_um2=self.areas_um2[chosen],
            warnings=self.warnings,
        )


def read_cells(data: Path, layout: DataLayout, imaging: ImagingSpec, report: Report) -> BenchCells:
    """Read and check the cells; raises UsageError that names all that is missing, and by how many."""
    dataset = read_dataset(data, lambda done, total: report("Reading cells", done, total), layout)
    files = dataset.unique
    contradicting = _contradictions(dataset)
    _require(dataset, contradicting)
    cells = in_threads(lambda file: file.read(), files, lambda done, total: report("Cutting cells out", done, total))
    images = np.stack([network_input(cell, imaging) for cell in cells])
    slides = np.array([dataset.group(file) for file in files])
    areas = np.array([cell.area_um2 for cell in cells])
    _one_scale(slides, areas)
    return BenchCells(
        files=files,
        images=images,
        labels=np.array([file.label for file in files], np.int64),
        slides=slides,
        figures=np.array([describe(image) for image in images]),
        areas_um2=areas,
        warnings=_warnings(dataset, contradicting),
    )


def require_unseen(bundle: Bundle, kept: TrainingFeatures, cells: BenchCells) -> None:
    """Raise UsageError if the bundle was fitted to some of the cells, or to others of their slides.

    It would be judged on cells that it knows, and so would be every head that is fitted beside its training cells.
    kept: those of the bundle.
    """
    fitted, made = read_fitted_of_bundle(bundle), bundle.manifest.finetuned
    same = fitted.copies(cells.files)[0] if fitted else set()
    slides = set(kept.people.tolist()) if made else set()
    known = sum(
        file.name in same or slide in slides for file, slide in zip(cells.files, cells.slides.tolist(), strict=True)
    )
    if known:
        cure = (
            f"Begin with the bundle that it was made from, {made.from_name} (serial {made.from_serial}), and all"
            " reviewed cells."
            if made
            else "Take cells that it has not seen."
        )
        raise UsageError(
            f"{bundle.path} was fitted to {known} of these {len(cells.files)} cells, or to others of their slides, and"
            f" cannot be judged on them. {cure}"
        )


def _contradictions(dataset: Dataset) -> set[str]:
    """Names of cells that were called both classes: the same picture, or one that shows the same cell."""
    found = {cell.name for same in dataset.duplicates if len({c.label for c in same}) > 1 for cell in same}
    normals, blasts = ([cell for cell in dataset.unique if cell.label == label] for label in (0, 1))
    for one, other in alike_pairs(hash_rows(c.look for c in normals), hash_rows(c.look for c in blasts)):
        if normals[one].subject == blasts[other].subject:
            found |= {normals[one].name, blasts[other].name}
    return found


def _require(dataset: Dataset, contradicting: set[str]) -> None:
    if len(contradicting) > max(2, MOST_CONTRADICTIONS * len(dataset.cells)):
        some = ", ".join(sorted(contradicting)[:3])
        raise UsageError(
            f"{len(contradicting)} of the {len(dataset.cells)} cells under {dataset.root} were called both blast and "
            f"normal, such as {some}; look at them again and keep one answer each."
        )
    missing = []
    for label, name in enumerate(LABELS):
        own = [cell for cell in dataset.unique if cell.label == label]
        slides = Counter(dataset.group(cell) for cell in own)
        if len(own) < FEWEST_CELLS:
            missing.append(f"{FEWEST_CELLS - len(own)} more {name} cells")
        elif len(slides) < FEWEST_SLIDES:
            missing.append(f"{name} cells of another slide than {next(iter(slides))}, from which all {len(own)} come")
    if missing:
        raise UsageError(
            f"{dataset.root} has too little to fine-tune on: it needs {' and '.join(missing)}. A model is judged on "
            f"slides that it was not fitted to, which takes {FEWEST_CELLS} cells of each class from {FEWEST_SLIDES} "
            "slides or more."
        )


def _one_scale(slides: NDArray[np.str_], areas: NDArray[np.float64]) -> None:
    """Raise UsageError where one slide's cells are so much larger than another's that their scales must differ."""
    names, counts = np.unique(slides, return_counts=True)
    medians = {str(name): float(np.median(areas[slides == name])) for name in names[counts >= FEWEST_CELLS // 2]}
    if not medians:
        return
    small, large = min(medians, key=medians.__getitem__), max(medians, key=medians.__getitem__)
    if medians[large] > MOST_APART * medians[small]:
        raise UsageError(
            f"The cells of {large} are {np.sqrt(medians[large] / medians[small]):.1f} times as wide as those of "
            f"{small}: two scales are mixed. Give each cell its own micrometres per pixel with --labels and "
            "--um-per-px-column."
        )


def _warnings(dataset: Dataset, contradicting: set[str]) -> list[str]:
    found = []
    if not all(cell.subject for cell in dataset.unique):
        found.append(
            "Whose slide a cell is from is not known for all of them: figures of cells held back may be of slides that "
            "the model was fitted to, and flatter. Say it with --subject or --subject-column."
        )
    if contradicting:
        found.append(f"{len(contradicting)} cells were called both blast and normal and are left out or doubtful.")
    if dataset.unreadable:
        name, reason = next(iter(dataset.unreadable.items()))
        found.append(f"{len(dataset.unreadable)} pictures cannot be used; the first, {name}: {reason}")
    if not all(cell.scale_known for cell in dataset.unique):
        found.append("The scale of some cells is not known; C-NMC's was assumed. Say it with --um-per-px.")
    return found
