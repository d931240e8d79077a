"""Which subjects of C-NMC share cells that were photographed twice, and the cells by which a copy of C-NMC is known.

    python benchmarks/known_people.py --data DIR/cnmc [--write]

writes results/known_people.json and, with --write, bloodedge/data/known_people.npz. Two pictures count as one cell if
their outlines and coarse texture are alike (CANDIDATE) and the grey levels of one, moved over the other, correlate by
SAME or more (zero-mean normalised cross-correlation on the cell without its rim).
"""

import argparse
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from revision import revision

from bloodedge.data.dataset import CellFile, Dataset, natural, read_dataset
from bloodedge.data.known_people import CELLS_FILE, SAME_PERSON
from bloodedge.data.perceptual_hash import hash_rows
from bloodedge.data.pictures import in_threads
from bloodedge.files import write_json
from bloodedge.imaging import Cell, cell_on_black, read_image

RESULTS = Path(__file__).parent / "results" / "known_people.json"
SIDE_PX = 64
CANDIDATE = 0.9
"""Correlation of two cells' band-passed boxes."""
SAME = 0.85
MOVED_PX = 30
RIM_PX = 4
KEPT = 64
"""Cells of a subject that are kept."""
AT_ONCE = 500


def cut(file: CellFile) -> Cell:
    """The box round a cell."""
    cell = cell_on_black(read_image(file.path))
    x, y, width, height = cv2.boundingRect(cell.mask)
    box = slice(y, y + height), slice(x, x + width)
    return replace(cell, bgr=cell.bgr[box], mask=cell.mask[box])


def texture(file: CellFile) -> NDArray[np.float32]:
    """Band-passed grey levels of a cell's box inside its rim, float32 (SIDE_PX ** 2,), of length 1."""
    cell = cut(file)
    grey = cv2.cvtColor(cell.bgr, cv2.COLOR_BGR2GRAY).astype(np.float32)
    grey[cell.mask == 0] = cv2.mean(grey, cell.mask)[0]
    size = SIDE_PX, SIDE_PX
    small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    inner = cv2.erode(cv2.resize(cell.mask, size, interpolation=cv2.INTER_AREA), np.ones((7, 7), np.uint8))
    band = cv2.GaussianBlur(small, (0, 0), 1.5) - cv2.GaussianBlur(small, (0, 0), 7)
    row = np.where(inner == 255, band, 0).ravel()
    row -= row.mean()
    return np.asarray(row / max(float(np.linalg.norm(row)), 1e-6), np.float32)


def correlation(one: CellFile, other: CellFile) -> float:
    """The best correlation of ``other`` moved over ``one``, -1..1."""
    first, second = cut(one), cut(other)
    around = np.pad(first.bgr, ((MOVED_PX, MOVED_PX), (MOVED_PX, MOVED_PX), (0, 0)))
    image = cv2.cvtColor(around, cv2.COLOR_BGR2GRAY).astype(np.float32)
    moved = cv2.cvtColor(second.bgr, cv2.COLOR_BGR2GRAY).astype(np.float32)
    if moved.shape[0] > image.shape[0] or moved.shape[1] > image.shape[1]:
        return 0.0
    inner = cv2.erode(second.mask, np.ones((2 * RIM_PX + 1, 2 * RIM_PX + 1), np.uint8))
    found = cv2.matchTemplate(image, moved, cv2.TM_CCOEFF_NORMED, mask=(inner > 0).astype(np.float32))
    return float(np.max(found[np.isfinite(found)], initial=-1.0))


def same_cells(dataset: Dataset) -> dict[str, list[dict[str, object]]]:
    """Pairs of pictures of one cell, by the two subjects that they stand under."""
    cells = dataset.unique
    rows = np.stack(in_threads(texture, cells))
    pairs = []
    for start in range(0, len(rows), AT_ONCE):
        near = np.argwhere(rows[start : start + AT_ONCE] @ rows.T > CANDIDATE)
        both = [(cells[start + i], cells[j]) for i, j in near if start + i < j]
        pairs += [(one, other) for one, other in both if one.subject != other.subject]
    print(f"{len(pairs)} candidates")
    values = in_threads(lambda pair: correlation(*pair), pairs)
    found: dict[str, list[dict[str, object]]] = defaultdict(list)
    for pair, value in zip(pairs, values, strict=True):
        if value >= SAME:
            first, second = sorted(pair, key=lambda file: natural(file.subject))
            record = {"files": [first.name, second.name], "correlation": round(value, 3)}
            found[f"{first.subject}, {second.subject}"].append(record)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def write_cells(dataset: Dataset) -> None:
    """CELLS_FILE: hashes of KEPT cells of each subject of SAME_PERSON, evenly over their names."""
    chosen: list[CellFile] = []
    for name in (name for names in SAME_PERSON for name in names):
        own = [cell for cell in dataset.unique if cell.subject == name]
        chosen += [own[i] for i in np.unique(np.linspace(0, len(own) - 1, KEPT).astype(int))] if own else []
    subjects = np.array([cell.subject for cell in chosen])
    np.savez_compressed(CELLS_FILE, subjects=subjects, hashes=hash_rows(cell.look for cell in chosen))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    dataset = read_dataset(options.data).by_pictures_alone()
    if options.write:
        write_cells(dataset)
    found = same_cells(dataset)
    for names, pairs in found.items():
        print(f"{names}: {len(pairs)}")
    record = {"command": "python benchmarks/known_people.py --data DIR/cnmc", "commit": revision()}
    write_json(RESULTS, record | {"cells": len(dataset.unique), "same": SAME, "pairs": found})


if __name__ == "__main__":
    main()
