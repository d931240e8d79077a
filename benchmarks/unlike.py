"""What the released bundle says of cells of other laboratories, whose class is known.

    python benchmarks/unlike.py --data ../shared/data [--bundle models/cells.bundle]

Lymphocytes of healthy people (PBC; CellaVision and Jiangxi, whose labels nobody checked) are normal: those called blast
are errors. Lymphoblasts of leukaemia smears under another microscope are blasts. Each is found, cut out and classified
as on the device; none was fitted to. A cell is *asked* where its kind may be a blast, *accepted* where it is inside the
domain, *called* where it is neither outside nor too near the line. Right counts by the threshold alone, for the
accepted and for the refused: the domain is to refuse what the network cannot judge.
Writes results/unlike.json.
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finder_network import SCALES
from finder_sources import PBC_UM_PER_PX, annotated, iou
from revision import revision

from bloodedge.bundle import Bundle
from bloodedge.decision.thresholds import Reason
from bloodedge.evaluation.classifier import open_bundle
from bloodedge.files import sha256, write_json
from bloodedge.imaging import Box, read_image
from bloodedge.machine import default_threads
from bloodedge_device.kinds import default_kinds
from bloodedge_device.predict.pictures import Picture
from bloodedge_device.predict.predictor import CellPrediction, Predictor

ROOT = Path(__file__).resolve().parents[1]
EVERY = 3
"""Of PBC's lymphocytes one in so many."""
LEAST_OVERLAP = 0.3
"""Of a found box with a labelled one; those of the leukaemia fields are loose."""


def pictures(data: Path) -> Iterator[tuple[str, str, float, Path, Box | None]]:
    """(source, class, micrometres per pixel, picture, box); without a box the cell is the one in the middle."""
    for path in sorted((data / "pbc" / "images").glob("LY_*.webp"))[::EVERY]:
        yield "pbc", "normal", PBC_UM_PER_PX, path, None
    for part in ("cellavision", "jiangxi"):
        with (data / "wbc_masks" / f"{part}.csv").open(newline="") as rows:
            lymphocytes = {int(name) for name, label in list(csv.reader(rows))[1:] if label == "2"}
        for path in sorted((data / "wbc_masks" / part).glob("*.webp")):
            if int(path.stem) in lymphocytes:
                yield part, "normal", SCALES[part], path, None
    fields = data / "leukaemia_fields"
    for name, boxes in annotated(fields / "boxes.csv").items():
        for label, box in boxes:
            if label == "lymphoblast":
                yield "leukaemia_fields", "blast", SCALES["leukaemia_fields"], fields / f"{name}.webp", box


def the_cell(cells: tuple[CellPrediction, ...], box: Box | None) -> CellPrediction | None:
    """The cell that is meant: the only one of a crop, or the one in a labelled box."""
    if box is None:
        return cells[0] if cells else None
    best = max(cells, key=lambda cell: iou(cell.box, box), default=None)
    return best if best and iou(best.box, box) > LEAST_OVERLAP else None


def figures(truth: str, cells: list[CellPrediction | None], line: float) -> dict[str, Any]:
    """Counts, and shares of cells right by the threshold."""
    asked = [cell for cell in cells if cell is not None and cell.blast_probability is not None]
    right = {id(cell): ((cell.blast_probability or 0) >= line) == (truth == "blast") for cell in asked}
    accepted = [cell for cell in asked if cell.reason is not Reason.OUT_OF_DOMAIN]
    refused = [cell for cell in asked if cell.reason is Reason.OUT_OF_DOMAIN]
    called = [cell for cell in accepted if cell.decision in {"blast", "normal"}]

    def share(some: list[CellPrediction]) -> float | None:
        return sum(right[id(cell)] for cell in some) / len(some) if some else None

    return {
        "truth": truth,
        "cells": len(cells),
        "found": sum(cell is not None for cell in cells),
        "asked": len(asked),
        "accepted": len(accepted),
        "called": len(called),
        "called_right": sum(cell.decision == truth for cell in called),
        "right_of_accepted": share(accepted),
        "right_of_refused": share(refused),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "cells.bundle")
    given = parser.parse_args()
    with Bundle(given.bundle) as bundle:
        manifest = bundle.manifest
    engine = open_bundle(given.bundle, "litert", "int8", default_threads()).engine
    predictors: dict[float, Predictor] = {}
    seen: dict[tuple[str, str], list[CellPrediction | None]] = {}
    for source, truth, scale, path, box in pictures(given.data):
        if scale not in predictors:
            predictors[scale] = Predictor(engine, manifest, default_kinds(), scale)
        (found,) = predictors[scale].predict([Picture(path, read_image(path))])
        seen.setdefault((source, truth), []).append(the_cell(found.cells, box))
    rows = {source: figures(truth, cells, manifest.thresholds.blast) for (source, truth), cells in seen.items()}
    for predictor in predictors.values():
        predictor.close()
    for source, row in rows.items():
        print(source, row)
    record = {
        "commit": revision(),
        "command": "python benchmarks/unlike.py --data DATA",
        "bundle": sha256(given.bundle),
        "sources": rows,
    }
    write_json(ROOT / "benchmarks" / "results" / "unlike.json", record)


if __name__ == "__main__":
    main()
