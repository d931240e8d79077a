"""The field gap: held-out cells in real fields, found and classified there, against the same cells given directly.

    python benchmarks/field.py --data ../shared/data --run runs/cells [--bundle models/cells.bundle]

Cells of everybody, each judged by the head of the bundle's run that was not fitted to its person (float: a run with
--all-people keeps them), are pasted, two at a time, into real frames of two microscopes: Chula's without white cells,
BCCD's with theirs painted over. Each person's fields are one slide, with a light, a stain, a focus and a scale of its
own, drawn by the setting. The whole chain then runs: gate, scale from the slide's red cells, finder, imaging, network.
Dice is of the found mask against the pasted cell's own. A cell is pasted under the light that the finder sees in the
frame, so a wrong estimate of the empty field shows in no figure. The gap is weighted F1 of the cells fed directly less
that of the same cells as found, in points, with an interval paired over people; cells that the chain does not give to
the network (missed, cut off, in frames that the gate refused) are counted apart.
Writes results/field.json.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from finder import dice, matched, without_white_cells
from finder_sources import BCCD_UM_PER_PX, CHULA_WHITE_CELLS, bccd_frames, chula_frames
from numpy.typing import NDArray
from revision import revision

from bloodedge.bundle import Bundle
from bloodedge.bundle.manifest import Manifest
from bloodedge.bundle.run_record import read_run
from bloodedge.data.dataset import CellFile, Dataset, inputs, read_dataset
from bloodedge.data.training_features import in_turns
from bloodedge.decision.thresholds import Thresholds, calibrated
from bloodedge.engine.keras import load_model
from bloodedge.evaluation.scoring import agree, score
from bloodedge.files import sha256, write_json
from bloodedge.finder import FinderParameters, estimate_um_per_px, find_cells
from bloodedge.finder.frame_gate import check
from bloodedge.finder.slide_scale import SlideScale
from bloodedge.imaging import Image, as_image, cell_on_black, network_input, read_image
from bloodedge.simulation import Field, paste_cells

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "field.json"
CELLS_PER_FIELD = 2
CELLS, BLOCK = 600, 32
"""Cells that are pasted, and cells that the network sees at a time."""


DYES = np.array([(0.834750233, 0.513556283, 0.196330403), (0.092789, 0.954111, 0.283111)])
"""Densities (red, green, blue) of methylene blue and eosin, as G. Landini measured them for ImageJ's Colour
Deconvolution plugin ("Giemsa")."""


@dataclass(frozen=True)
class Setting:
    """What slides may differ in; each figure is the widest deviation from a slide as it was taken."""

    light: float = 0.0
    """Of the gain of each colour, as a share."""
    strength: float = 0.0
    """Of the strength of either dye, as a share."""
    hue: float = 0.0
    """Of either dye's direction in density space, radians."""
    defocus_um: float = 0.0
    """Standard deviation of a Gaussian blur, micrometres, from 0."""
    zoom: float = 0.0
    """Of the magnification, as a share."""
    known_scale: bool = True
    """Whether the device is told the scale; else it measures the slide's red cells."""


HARD = Setting(light=0.15, strength=0.25, hue=0.12, defocus_um=0.2, zoom=0.2, known_scale=False)
SETTINGS = {
    "nominal": Setting(),
    "scale measured": Setting(known_scale=False),
    "light": Setting(light=HARD.light),
    "stain": Setting(strength=HARD.strength, hue=HARD.hue),
    "focus": Setting(defocus_um=HARD.defocus_um),
    "hard": HARD,
}


@dataclass
class FieldResults:
    """What came of the pasted cells, by their number."""

    blast: dict[int, float] = field(default_factory=dict)
    inside: dict[int, bool] = field(default_factory=dict)
    """Whether each is in the bundle's domain."""
    dices: list[float] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    pasted: int = 0
    false: int = 0


class Judge:
    """The float heads of a run's folds: each cell is judged by the one that was not fitted to its person."""

    def __init__(self, run: Path, dataset: Dataset) -> None:
        record = read_run(run)
        if record.cross_validation is None:
            raise SystemExit(f"{run} has no heads of folds; train it with --all-people.")
        self._network = load_model(run, record.cross_validation.file)
        self._temperature, self._group = record.temperature, dataset.group
        self._fold = {name: number for number, held in enumerate(record.cross_validation.folds) for name in held}

    def blast(self, cells: list[CellFile], images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Calibrated blast probabilities (N,) of network inputs of the cells."""
        blocks = np.split(images, range(BLOCK, len(images), BLOCK))
        outputs = np.concatenate([np.asarray(self._network.predict_on_batch(block)) for block in blocks])
        folds = [self._fold[self._group(cell)] for cell in cells]
        return calibrated(outputs[np.arange(len(cells)), folds], self._temperature)[:, 1]


class Slide:
    """One person's smear under one light and stain."""

    def __init__(self, setting: Setting, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._gains = 1 + setting.light * rng.uniform(-1, 1, 3)
        dyes = np.vstack([DYES, np.cross(*DYES)])
        dyes /= np.linalg.norm(dyes, axis=1, keepdims=True)
        turned = dyes.copy()
        turned[:2] += setting.hue * rng.uniform(-1, 1, (2, 3))
        turned[:2] *= (1 + setting.strength * rng.uniform(-1, 1, 2))[:, np.newaxis]
        self._densities = (np.linalg.inv(dyes) @ turned)[::-1, ::-1]  # RGB to BGR
        self._defocus_um = setting.defocus_um * rng.uniform()
        self._zoom = 1 + setting.zoom * rng.uniform(-1, 1)
        self._changed = bool(setting.light or setting.strength or setting.hue)

    def show(self, pasted: Field) -> Field:
        """The field as this slide would look; the truth's masks stay as they are, at the old magnification."""
        bgr: NDArray[Any] = pasted.bgr
        if self._changed:
            light = np.percentile(bgr.reshape(-1, 3)[::7], 95, axis=0)
            density = -np.log10((bgr.astype(np.float64) + 1) / (light + 1)) @ self._densities
            bgr = np.clip(np.rint((light * self._gains + 1) * 10**-density - 1), 0, 255).astype(np.uint8)
        if self._defocus_um:
            bgr = cv2.GaussianBlur(bgr, (0, 0), max(self._defocus_um / pasted.um_per_px, 0.1))
        if self._zoom != 1:
            kind = cv2.INTER_CUBIC if self._zoom > 1 else cv2.INTER_AREA
            bgr = cv2.resize(bgr, None, fx=self._zoom, fy=self._zoom, interpolation=kind)
        return Field(as_image(bgr), pasted.um_per_px / self._zoom, pasted.cells)

    def as_pasted(self, box: tuple[int, int, int, int], mask: Image) -> tuple[tuple[int, int, int, int], Image]:
        """A found box and mask at the magnification of the truth."""
        if self._zoom == 1:
            return box, mask
        x, y, width, height = (round(v / self._zoom) for v in box)
        size = max(1, width), max(1, height)
        return (x, y, *size), as_image(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with bccd/, chula/ and cnmc/")
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "cells.bundle")
    parser.add_argument("--run", type=Path, required=True, help="the bundle's run folder, with its folds' heads")
    parser.add_argument("--cells", type=int, default=CELLS, help="so many, people in turns")
    parser.add_argument("--setting", action="append", choices=list(SETTINGS), help="only these (default: all)")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    with Bundle(options.bundle) as bundle:
        manifest = bundle.manifest
    dataset = read_dataset(options.data / "cnmc")
    everybody = dataset.unique
    labels = np.array([cell.label for cell in everybody])
    cells = [everybody[n] for n in in_turns(labels, [dataset.group(cell) for cell in everybody], options.cells, 0)]
    judge = Judge(options.run, dataset)
    direct = judge.blast(cells, inputs(cells, manifest.imaging))
    backgrounds = list(_backgrounds(options.data))
    rows = {}
    for name in options.setting or SETTINGS:
        rows[name] = compare(
            cells, direct, run(cells, judge, manifest, backgrounds, SETTINGS[name]), manifest.thresholds
        )
        print(name, {key: value for key, value in rows[name].items() if key != "subjects"}, flush=True)
    write_json(
        options.json,
        {
            "commit": revision(),
            "command": "python benchmarks/field.py --data DATA --run RUN",
            "bundle": sha256(options.bundle),
            "cells": len(cells),
            "people": len({cell.subject for cell in cells}),
            "backgrounds": len(backgrounds),
            "settings": rows,
        },
    )


def _backgrounds(data: Path) -> Iterator[tuple[Image, float]]:
    """Frames without white cells, with their micrometres per pixel."""
    chula = [frame.bgr for frame in chula_frames(data / "chula") if frame.name not in CHULA_WHITE_CELLS]
    scales = [scale for bgr in chula if (scale := estimate_um_per_px(bgr)) is not None]
    yield from ((bgr, float(np.median(scales))) for bgr in chula)
    for frame in bccd_frames(data / "bccd")[::4]:
        yield without_white_cells(frame), BCCD_UM_PER_PX


def run(
    cells: list[CellFile],
    judge: "Judge",
    manifest: Manifest,
    backgrounds: list[tuple[Image, float]],
    setting: Setting,
) -> FieldResults:
    """Everything through the chain, person by person and microscope by microscope."""
    results, slides = FieldResults(), defaultdict(list)
    for number, cell in enumerate(cells):
        slides[cell.subject].append(number)
    for seed, numbers in enumerate(slides.values()):
        slide = Slide(setting, seed)
        measured: defaultdict[float, SlideScale] = defaultdict(lambda: SlideScale(FinderParameters()))
        for start in range(0, len(numbers), CELLS_PER_FIELD):
            group = numbers[start : start + CELLS_PER_FIELD]
            background, um_per_px = backgrounds[(start // CELLS_PER_FIELD + 7 * seed) % len(backgrounds)]
            shown = slide.show(_pasted(cells, group, background, um_per_px))
            scale = shown.um_per_px if setting.known_scale else measured[um_per_px].of(shown.bgr)
            _look(cells, shown, scale, group, slide, manifest, judge, results)
    return results


def _pasted(cells: list[CellFile], group: list[int], background: Image, um_per_px: float) -> Field:
    crops = [(cell_on_black(read_image(cells[n].path)), "blast" if cells[n].label else "normal") for n in group]
    return paste_cells(background, crops, um_per_px, seed=group[0])


def _look(
    cells: list[CellFile],
    shown: Field,
    um_per_px: float | None,
    group: list[int],
    slide: Slide,
    manifest: Manifest,
    judge: "Judge",
    results: FieldResults,
) -> None:
    if len(shown.cells) < len(group):
        return  # no place was left for one of them: who is who is not known
    results.pasted += len(group)
    reason = check(shown.bgr).reason
    if reason is not None:
        results.lost[f"frame {reason}"] += len(group)
        return
    found = find_cells(shown.bgr, um_per_px)
    boxes = [slide.as_pasted(cell.box, cell.mask) for cell in found.cells]
    pairs = matched([true.box for true in shown.cells], [box for box, _ in boxes])
    results.false += len(found.cells) - len(pairs)
    results.lost["missed"] += len(group) - len(pairs)
    for true, index in pairs:
        results.dices.append(dice(shown.cells[true].box, shown.cells[true].mask, *boxes[index]))
        cell = found.cells[index]
        if cell.touches_border:
            results.lost["cut by border"] += 1
            continue
        image = network_input(cell.crop(shown.bgr, found.um_per_px), manifest.imaging)
        results.blast[group[true]] = float(judge.blast([cells[group[true]]], image[np.newaxis])[0])
        results.inside[group[true]] = manifest.domain is None or manifest.domain.holds(image)


def compare(
    cells: list[CellFile], direct: NDArray[np.float64], results: FieldResults, thresholds: Thresholds
) -> dict[str, Any]:
    """The figures of a setting."""
    numbers = sorted(results.blast)
    blast = np.array([results.blast[n] for n in numbers])
    labels, people = [cells[n].label for n in numbers], [cells[n].subject for n in numbers]
    inside = np.array([results.inside[n] for n in numbers])
    agreement = agree(direct[numbers], blast, labels, people, thresholds)
    ours, theirs = (score(labels, p, people, threshold=thresholds.blast) for p in (direct[numbers], blast))
    return {
        "pasted": results.pasted,
        "classified": len(numbers),
        "not_classified": {reason: count for reason, count in results.lost.items() if count},
        "false_cells": results.false,
        "dice_mean": float(np.mean(results.dices)),
        "dice_p10": float(np.percentile(results.dices, 10)),
        "weighted_f1_direct": ours.weighted_f1,
        "weighted_f1_field": theirs.weighted_f1,
        "auc_direct": ours.auc,
        "auc_field": theirs.auc,
        "gap_points": agreement.drop["weighted_f1"],
        "gap_ci95": agreement.drop_ci95.get("weighted_f1"),
        "flip_rate": agreement.flip_rate,
        "in_domain": float(inside.mean()),
        "accuracy_in_domain": _accuracy(blast[inside], np.array(labels)[inside], thresholds),
        "accuracy_out_of_domain": _accuracy(blast[~inside], np.array(labels)[~inside], thresholds),
    }


def _accuracy(blast: NDArray[np.float64], labels: NDArray[np.int64], thresholds: Thresholds) -> float | None:
    said = blast >= thresholds.blast
    return float((said == (labels == 1)).mean()) if len(labels) else None


if __name__ == "__main__":
    main()
