"""The domain of a run's training cells, outside of which its network's answers mean nothing."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from bloodedge.console import Progress
from bloodedge.data.dataset import CellFile
from bloodedge.data.pictures import in_threads
from bloodedge.decision.domain import CELLS, Domain, describe, fit_domain
from bloodedge.imaging import Cell, ImagingSpec, network_input
from bloodedge.imaging.filming import at_another_bench, in_a_field
from bloodedge_convert.cells.calibration_set import choose_cells

HELD_BACK = 6
"""Of so many groups one sets the limit of the domain where a run has no validation part."""
SEVERE = 2.0
"""The limit is set on cells of benches that differ by up to so many times what a head is made to bear."""


def hold_back(train: Sequence[CellFile], group: Callable[[CellFile], str]) -> dict[str, list[CellFile]]:
    """Training cells as "train" and "validation", nobody in both: every sixth group of each class validates."""
    labels = {group(cell): cell.label for cell in train}
    held = {name for label in (0, 1) for name in sorted(n for n in labels if labels[n] == label)[::HELD_BACK]}
    parts: dict[str, list[CellFile]] = {"train": [], "validation": []}
    for cell in train:
        parts["validation" if group(cell) in held else "train"].append(cell)
    return parts


def training_domain(
    parts: dict[str, list[CellFile]],
    test: NDArray[np.uint8],
    spec: ImagingSpec,
    seed: int,
    progress: Progress | None,
) -> Domain | None:
    """The domain of training cells, with its limit set on validation cells; None where they are too few.

    The limit is such that validation cells stay inside at benches that differ much. test: held-out network inputs uint8
    (N, H, W, 3) RGB; the domain records what share of them lies inside.
    """
    chosen = [choose_cells(parts[name], CELLS, seed) for name in ("train", "validation")]
    cells = in_threads(lambda cell: cell.read(), [*chosen[0], *chosen[1]], progress)
    training, others = cells[: len(chosen[0])], cells[len(chosen[0]) :]
    rng = np.random.default_rng(seed)
    shown, held = (
        [*part, *(in_a_field(c, rng) for c in part), *(at_another_bench(c, rng) for c in part)]
        for part in (training, others)
    )
    severe = [at_another_bench(cell, rng, SEVERE) for cell in others]
    domain = fit_domain(_inputs(shown, spec), _inputs(held, spec), _inputs(severe, spec))
    if domain is not None and len(test):
        distances = domain.distances(np.array([describe(image) for image in test]))
        domain = domain.model_copy(update={"accepted": float((distances <= domain.limit).mean())})
    return domain


def _inputs(cells: Sequence[Cell], spec: ImagingSpec) -> NDArray[np.uint8]:
    return np.array([network_input(cell, spec) for cell in cells], np.uint8)
