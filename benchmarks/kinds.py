"""What the kind network says of cells that it was not fitted to, of six sources.

    python benchmarks/kinds.py --data ../shared/data --json benchmarks/results/kinds.json

PBC: the pictures held out from the fit; C-NMC: the people held out; the pictures of one cell of two other microscopes
(cellavision, jiangxi) and the leukaemia fields of a third were never fitted. Cells are those that the finder cuts out:
one that it misses counts as not named. ``right of named`` leaves out unknown cells; ``right at all`` asks for the
likeliest kind whatever its probability.
"""

import argparse
import csv
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from finder_network import SCALES
from finder_sources import PBC_UM_PER_PX, annotated, iou
from kind_examples import OF_PBC, is_held_out, pbc_examples
from kind_variation import varied
from numpy.typing import NDArray
from revision import revision

from bloodedge.decision.kinds import Kind
from bloodedge.files import write_json
from bloodedge.finder import FoundCell, find_cells
from bloodedge.imaging import Image, cell_on_black, read_image
from bloodedge_device.kinds import OUTPUTS, KindInput, KindNetwork, call_of, default_kinds

WBC_MASKS = {
    "1": Kind.NEUTROPHIL,
    "2": Kind.LYMPHOCYTE,
    "3": Kind.MONOCYTE,
    "4": Kind.EOSINOPHIL,
    "5": Kind.BASOPHIL,
}
LEUKAEMIA = {
    "lymphoblast": Kind.LYMPHOCYTE,
    "lymphocyte": Kind.LYMPHOCYTE,
    "monocyte": Kind.MONOCYTE,
    "neutrophil": Kind.NEUTROPHIL,
    "basophil": Kind.BASOPHIL,
    "myelocyte": Kind.IMMATURE_GRANULOCYTE,
    "metamyelocyte": Kind.IMMATURE_GRANULOCYTE,
    "myeloblast": Kind.IMMATURE_GRANULOCYTE,
}
"""Myeloblasts are no kind of the network's; the nearest is counted as right."""


@dataclass
class Tally:
    """Answers by true kind."""

    missed: Counter[str] = field(default_factory=Counter)
    calls: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    right: list[bool] = field(default_factory=list)
    asked: defaultdict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    wrong: list[str] = field(default_factory=list)
    stages: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, truth: str, kind: str, probabilities: NDArray[np.float64] | None) -> None:
        """One cell; None: the finder missed it."""
        if probabilities is None:
            self.missed[kind] += 1
            return
        call, likeliest = call_of(probabilities), likeliest_kind(probabilities)
        self.calls[kind][call.kind] += 1
        self.right.append(likeliest == kind)
        self.asked[truth].append(call.asked)
        if call.kind not in {kind, Kind.UNKNOWN}:
            self.wrong.append(f"{name}: {truth} called {call.kind} ({call.probability:.2f})")
        if call.stage and "neutrophil" in truth:
            self.stages[f"{truth} called {call.stage}"] += 1

    def to_json(self) -> dict[str, Any]:
        """As the record keeps it."""
        named = sum(n for k, c in self.calls.items() for called, n in c.items() if called != Kind.UNKNOWN)
        right = sum(c[k] for k, c in self.calls.items())
        cells = len(self.right) + sum(self.missed.values())
        return {
            "cells": cells,
            "missed by the finder": sum(self.missed.values()),
            "named": round(named / cells, 4),
            "right of named": round(right / named, 4) if named else None,
            "right at all": round(float(np.mean(self.right)), 4) if self.right else None,
            "asked": {k: [sum(v), len(v)] for k, v in sorted(self.asked.items())},
            "stages": dict(sorted(self.stages.items())),
            "confusion": {k: dict(sorted(c.items())) for k, c in sorted(self.calls.items())},
            "wrong": self.wrong[:60],
        }


def likeliest_kind(probabilities: NDArray[np.float64]) -> str:
    by_kind = {str(Kind.NEUTROPHIL): float(probabilities[:2].sum())}
    by_kind |= {name: float(p) for name, p in zip(OUTPUTS[2:], probabilities[2:], strict=True)}
    return max(by_kind, key=lambda k: by_kind[k])


@dataclass(frozen=True)
class Cell:
    """An annotated cell; image: the network's input, None where the finder missed it."""

    name: str
    truth: str
    kind: str
    image: Image | None


def middle_cell(bgr: Image, um_per_px: float) -> FoundCell | None:
    """The found cell that holds the picture's middle, or is nearest to it."""
    height, width = bgr.shape[:2]

    def distance(cell: FoundCell) -> float:
        x, y, w, h = cell.box
        return float(max(abs(x + w / 2 - width / 2) / w, abs(y + h / 2 - height / 2) / h))

    best = min(find_cells(bgr, um_per_px).cells, key=distance, default=None)
    return best if best is not None and distance(best) < 0.5 else None


def _image(cell: FoundCell | None, um_per_px: float) -> Image | None:
    return None if cell is None else KindInput.of(cell, um_per_px).image()


def pbc(data: Path) -> Iterable[Cell]:
    for path in sorted((data / "pbc" / "images").glob("*.webp")):
        truth = path.stem.split("_")[0]
        if truth in OF_PBC and truth not in {"PLT", "RBC"} and is_held_out(path.stem):
            cell = middle_cell(read_image(path), PBC_UM_PER_PX)
            output = OF_PBC[truth]
            yield Cell(path.stem, output, _kind(output), _image(cell, PBC_UM_PER_PX))


def masked(data: Path, part: str) -> Iterable[Cell]:
    rows = list(csv.reader((data / "wbc_masks" / f"{part}.csv").open()))[1:]
    for name, label in rows:
        path = next((data / "wbc_masks" / part).glob(f"{int(name):03d}.webp"), None)
        if path is None or label not in WBC_MASKS:
            continue
        cell = middle_cell(read_image(path), SCALES[part])
        kind = WBC_MASKS[label]
        yield Cell(f"{part}/{name}", kind, kind, _image(cell, SCALES[part]))


def leukaemia(data: Path) -> Iterable[Cell]:
    boxes = annotated(data / "leukaemia_fields" / "boxes.csv")
    for name, labelled in sorted(boxes.items()):
        bgr = read_image(data / "leukaemia_fields" / f"{name}.webp")
        found = find_cells(bgr, SCALES["leukaemia_fields"]).cells
        for label, box in labelled:
            if label in LEUKAEMIA:
                best = max(found, key=lambda cell: iou(cell.box, box), default=None)
                hit = best if best is not None and iou(best.box, box) >= 0.3 else None
                yield Cell(name, label, LEUKAEMIA[label], _image(hit, SCALES["leukaemia_fields"]))


def cnmc(data: Path) -> Iterable[Cell]:
    for path in sorted((data / "cnmc").rglob("*.webp")):
        if is_held_out(path.stem.upper().split("_")[1]):
            cell = KindInput.cut_out(cell_on_black(read_image(path)))
            yield Cell(path.stem, path.parent.name, Kind.LYMPHOCYTE, cell.image())


SOURCES: dict[str, Callable[[Path], Iterable[Cell]]] = {
    "pbc": pbc,
    "cellavision": lambda data: masked(data, "cellavision"),
    "jiangxi": lambda data: masked(data, "jiangxi"),
    "leukaemia_fields": leukaemia,
    "cnmc": cnmc,
}


def judged(cells: Iterable[Cell], network: KindNetwork) -> Tally:
    tally = Tally()
    for cell in cells:
        tally.add(cell.name, cell.truth, cell.kind, None if cell.image is None else network.probabilities(cell.image))
    return tally


def rates(data: Path, network: KindNetwork) -> dict[str, Any]:
    """Confusions on PBC's held-out pictures, each cell as it is and as another bench might show it."""
    rng = np.random.default_rng(0)
    kinds: list[Kind] = [kind for kind in Kind if kind is not Kind.UNKNOWN]
    confusion = np.zeros((len(kinds), len(kinds) + 1), int)
    for example in pbc_examples(data):
        if not example.held_out:
            continue
        truth = kinds.index(_kind(OUTPUTS[example.output]))
        plain = KindInput(example.density, example.mask, example.um_per_px).image()
        other, output = varied(example, rng)
        for image in [plain, other] if output == example.output else [plain]:
            told = call_of(network.probabilities(image)).kind
            confusion[truth, len(kinds) if told is Kind.UNKNOWN else kinds.index(told)] += 1
    return {
        "data": "PBC's pictures that the network was not fitted to, as they are and as other benches might show them",
        "kinds": list(kinds),
        "confusion": confusion.tolist(),
    }


def _kind(output: str) -> Kind:
    return Kind.NEUTROPHIL if "neutrophil" in output else Kind(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with all sources")
    parser.add_argument("--network", type=Path, help="a .tflite file; default: the released one")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--rates", type=Path, help="write the network's confusions here, kinds/rates.json")
    arguments = parser.parse_args()
    network = KindNetwork(arguments.network.read_bytes()) if arguments.network else default_kinds()
    figures: dict[str, Any] = {
        "command": "python benchmarks/kinds.py --data DATA --json benchmarks/results/kinds.json",
        "commit": revision(),
    }
    for name, cells in SOURCES.items():
        figures[name] = judged(cells(arguments.data), network).to_json()
        print(name, {key: value for key, value in figures[name].items() if key != "wrong"}, flush=True)
    if arguments.json:
        write_json(arguments.json, figures)
    if arguments.rates:
        write_json(arguments.rates, rates(arguments.data, network))


if __name__ == "__main__":
    main()
