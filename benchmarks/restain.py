"""Stain normalisation beside torchstain's Macenko (NumPy), in turn on the same pictures, one thread.

    pip install --no-deps torchstain==1.4.1
    python benchmarks/restain.py --data ../shared/data

A crop is a C-NMC picture with its background filled, whole (450x450); a cell is cut out of it. "applied" is what a
device does to each cell, its slide's dyes being known; "fitted and applied" finds them in the same picture, as
torchstain does. A field is a BCCD frame; the dyes are found in every fourth pixel of either side. Ratios are of
medians. Writes results/restain.json.
"""

import argparse
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import cv2
import numpy as np

from bloodedge.files import write_json
from bloodedge.imaging import Image, cell_on_black, read_image
from bloodedge.imaging.optical_density import romanowsky
from bloodedge.imaging.restain import SOURCE_LIGHT, Light, StainBasis, densities, fit_stain, restained
from bloodedge.machine import hardware_name, versions

RESULTS = Path(__file__).parent / "results" / "restain.json"
REFERENCE = StainBasis.model_validate({"dyes": romanowsky()[:2].tolist(), "strength": (1.0, 1.0)})
LIGHT: Light = (SOURCE_LIGHT,) * 3
CELLS, FIELDS, ROUNDS = 30, 12, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cnmc/ and bccd/")
    data = parser.parse_args().data
    cv2.setNumThreads(1)
    paths = sorted((data / "cnmc").glob("*/fold_0/*/*"))[:: 2000 // CELLS][:CELLS]
    crops, boxes = ([_lit(path, whole=whole) for path in paths] for whole in (True, False))
    fields = [read_image(path) for path in sorted((data / "bccd" / "JPEGImages").glob("*.jpg"))[:FIELDS]]
    result = {
        "command": "python benchmarks/restain.py --data DATA",
        "machine": hardware_name(),
        "versions": versions(("torchstain", "numpy", "opencv-python-headless")),
        "crop": compared(crops, 1),
        "cell": compared(boxes, 1),
        "field": compared(fields, 4),
    }
    write_json(RESULTS, result)
    print(result)


def _lit(path: Path, *, whole: bool) -> Image:
    """The crop or the cell's box, with light round the cell: black would be stain to torchstain."""
    cell = cell_on_black(read_image(path))
    x, y, width, height = cv2.boundingRect(cell.mask)
    lit = np.where(cell.mask[:, :, np.newaxis] > 0, cell.bgr, SOURCE_LIGHT).astype(np.uint8)
    return lit if whole else lit[y : y + height, x : x + width].copy()


def compared(pictures: list[Image], step: int) -> dict[str, Any]:
    """Median milliseconds of each way over all pictures, and how many times faster ours are."""
    from torchstain.numpy.normalizers.macenko import NumpyMacenkoNormalizer

    known = [_fitted(picture, step) for picture in pictures]
    theirs = NumpyMacenkoNormalizer()
    ways: dict[str, Callable[[int], Any]] = {
        "torchstain": lambda i: theirs.normalize(pictures[i][:, :, ::-1], stains=False),
        "applied": lambda i: restained(pictures[i], LIGHT, known[i], REFERENCE),
        "fitted and applied": lambda i: restained(pictures[i], LIGHT, _fitted(pictures[i], step), REFERENCE),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for index in range(len(pictures)):
            for name, way in ways.items():
                start = perf_counter()
                way(index)
                times[name].append((perf_counter() - start) * 1000)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "pictures": len(pictures),
        "median_pixels": int(np.median([picture.shape[0] * picture.shape[1] for picture in pictures])),
        "ms": {name: round(value, 2) for name, value in medians.items()},
        "times_faster": {name: round(medians["torchstain"] / medians[name], 1) for name in list(ways)[1:]},
    }


def _fitted(picture: Image, step: int) -> StainBasis:
    part = picture[::step, ::step]
    return fit_stain(densities(part, np.full(part.shape[:2], 255, np.uint8), LIGHT))


if __name__ == "__main__":
    main()
