"""How large cells are in micrometres, and signs that a data set's scale is wrong or that it mixes several."""

from collections import Counter, defaultdict
from statistics import median

import numpy as np

from bloodedge.data.dataset import CellFile, Dataset

PLAUSIBLE_UM = 6.0, 25.0
"""Median diameters of white cells on a smear: lymphocytes from 7 µm, monocytes and blasts to 20 µm."""
MOST_APART = 1.8
"""Largest over smallest median diameter of two people's cells. C-NMC's people reach 1.5 at one scale."""
FEWEST = 5
"""Cells of a person, or a folder, whose median says something."""


def diameter_um(cell: CellFile) -> float:
    """Diameter of a circle of the cell's area."""
    return 2 * cell.um_per_px * float(np.sqrt(cell.area_px / np.pi))


def scales_of(dataset: Dataset) -> dict[str, int]:
    """Cells by scale, the most frequent first: "0.066", or "0.066 (assumed)" where nothing says it."""
    names = Counter(f"{c.um_per_px:g}" + ("" if c.scale_known else " (assumed)") for c in dataset.cells)
    return dict(names.most_common())


def scale_cautions(dataset: Dataset) -> list[str]:
    """Sentences on cells that are too small or too large to be white cells, or of two sizes."""
    found = []
    usual = median(map(diameter_um, dataset.cells))
    low, high = PLAUSIBLE_UM
    if not low <= usual <= high:
        scale = next(iter(scales_of(dataset)))
        found.append(
            f"At {scale} µm per pixel cells are {usual:.2g} µm across in the median, white cells {low:g} to {high:g}; "
            "give the scale with --um-per-px."
        )
    sizes: dict[str, list[float]] = defaultdict(list)
    for cell in dataset.cells:
        sizes[cell.subject or cell.path.parent.name].append(diameter_um(cell))
    medians = {whose: median(values) for whose, values in sizes.items() if len(values) >= FEWEST}
    if medians:
        least, most = min(medians, key=medians.__getitem__), max(medians, key=medians.__getitem__)
        if medians[most] > MOST_APART * medians[least]:
            found.append(
                f"Cells of {most} are {medians[most] / medians[least]:.1f} times as wide as those of {least}: if two "
                "scales are mixed, give each picture's in a table with --um-per-px-column."
            )
    return found
