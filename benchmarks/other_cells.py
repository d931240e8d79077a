"""Fine-tuning the released bundle to other cells: immature granulocytes against mature cells under another microscope.

    python benchmarks/other_cells.py --data ../shared/data

What a laboratory brings that has pictures of two classes with their surroundings, and no slides: TIFF crops of SIDE
pixels round the middle of PBC's pictures, in two folders. Half of the cells are reviewed, as ``bloodedge finetune``
reads them; the bundle that it writes is judged, by its int8 network, on the other half. Three deals of the cells.
PBC does not say whose a cell is: cells of one person are in both halves.
Writes results/other_cells.json, with what the first ``finetune`` said.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from finder_sources import PBC_UM_PER_PX
from programs import bloodedge
from revision import revision

from bloodedge.files import sha256, write_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "other_cells.json"
CLASSES = {"immature": ("MMY", "MY", "PMY"), "mature": ("LY", "MO", "SNE", "EO")}
"""PBC's kinds, by the folder that the laboratory calls them by."""
EACH, SIDE, DEALS = 67, 257, 3
"""Cells of a class in each half, pixels, deals."""


def write_halves(pictures: Path, folder: Path, seed: int) -> None:
    """Make ``folder``/reviewed and ``folder``/others."""
    rng = np.random.default_rng(seed)
    for name, kinds in CLASSES.items():
        paths = sorted(path for kind in kinds for path in pictures.glob(f"{kind}_*"))
        for number, index in enumerate(rng.permutation(len(paths))[: 2 * EACH]):
            place = folder / ("reviewed" if number < EACH else "others") / name
            place.mkdir(parents=True, exist_ok=True)
            picture = cv2.imread(str(paths[index]))
            assert picture is not None
            top, left = ((side - SIDE) // 2 for side in picture.shape[:2])
            cv2.imwrite(str(place / f"{paths[index].stem}.tif"), picture[top : top + SIDE, left : left + SIDE])


def run(folder: Path, *words: object) -> str:
    """What a command prints; ends the benchmark where it fails."""
    done = subprocess.run(bloodedge(*words), cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def deal(pictures: Path, bundle: Path, seed: int) -> tuple[str, dict[str, Any]]:
    """What ``finetune`` said, and the figures of the other half before and after."""
    layout = ("--classes", "immature=blast,mature=normal", "--um-per-px", PBC_UM_PER_PX)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_halves(pictures, folder, seed)
        said = run(folder, "finetune", "reviewed", "--from", bundle, *layout, "-o", "ours.bundle")
        judged = {
            when: json.loads(run(folder, "evaluate", one, "others", *layout, "--json", "-"))
            for when, one in (("before", bundle), ("after", "ours.bundle"))
        }
    figures = {
        when: {key: found[key] for key in ("cells", "auc", "balanced_accuracy")} for when, found in judged.items()
    }
    return said, figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pbc/")
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "cells.bundle")
    options = parser.parse_args()
    dealt = [deal(options.data.absolute() / "pbc" / "images", options.bundle, seed) for seed in range(DEALS)]
    for _, figures in dealt:
        print(figures)
    record = {
        "commit": revision(),
        "command": "python benchmarks/other_cells.py --data DATA",
        "bundle": sha256(options.bundle),
        "said": dealt[0][0].splitlines(),
        "others": [figures for _, figures in dealt],
    }
    write_json(RESULTS, record)


if __name__ == "__main__":
    main()
