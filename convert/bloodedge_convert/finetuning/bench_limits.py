"""What a bundle knows of the cells it was fitted to, widened to a bench's: domain, and reference for drift."""

import numpy as np
from numpy.typing import NDArray

from bloodedge.decision.domain import ACCEPTANCE, Domain, Region
from bloodedge.decision.reference_people import Reference, aspects_of
from bloodedge_convert.finetuning.cells import BenchCells

WIDEST = 2.0
"""Of the release's limit: more than this from the bench's own cells is no cell of it, whatever was reviewed."""

Floats = NDArray[np.float64]


def with_bench(domain: Domain | None, cells: BenchCells, folds: NDArray[np.int64]) -> Domain | None:
    """The domain with the bench's cells as a region of its own, its limit set on slides held back."""
    if domain is None:
        return None
    held = np.concatenate(
        [
            domain.apart(cells.figures[folds == fold], cells.figures[folds != fold].mean(axis=0))
            for fold in range(int(folds.max()) + 1)
        ]
    )
    limit = float(np.clip(np.quantile(held, ACCEPTANCE), domain.limit, WIDEST * domain.limit))
    region = Region(mean=tuple(cells.figures.mean(axis=0).tolist()), limit=limit, cells=len(cells.files))
    return domain.model_copy(update={"benches": (*domain.benches, region)})


def accepted(old: Domain | None, new: Domain | None, cells: BenchCells) -> tuple[float, float]:
    """Shares of the cells inside the domain, before and after."""
    before, after = (
        1.0 if domain is None else float((domain.distances(cells.figures) <= domain.limit).mean())
        for domain in (old, new)
    )
    return before, after


def moved(reference: Reference | None, cells: BenchCells, blast: Floats) -> Reference | None:
    """The reference with each aspect's quantiles moved to the bench's median; how people differ stays.

    blast: (N,), calibrated, by heads that were not fitted to the cell's slide.
    """
    if reference is None:
        return None
    ours = aspects_of(cells.figures, blast, cells.areas_um2)
    aspects = {}
    for name, aspect in reference.aspects.items():
        by = float(np.median(ours[name])) - aspect.quantiles[50]
        quantiles = tuple(value + by for value in aspect.quantiles)
        aspects[name] = aspect.model_copy(update={"quantiles": quantiles})
    return reference.model_copy(update={"aspects": aspects})
