"""The cell finder and the frame gate against annotated fields of five microscopes, simulated fields and pasted cells.

    python benchmarks/finder.py --data ../shared/data --left-out build/finder --json benchmarks/results/finder.json

A found box counts when it overlaps an annotated one by IoU >= 0.5 (0.3 in the leukaemia fields, whose boxes are loose),
each with one other at most, best overlaps first. BCCD's annotators boxed cells that the border cuts as well, so cut
cells count as found. Elsewhere some cells at the border are not boxed: boxes that come within three pixels of it count
neither as missed nor as found, nor do found cells there as false. With ``--left-out`` each source is also judged with
the network of that folder that never saw it, without_SOURCE.tflite of ``finder_network.py --without SOURCE``.
"""

import argparse
import itertools
import json
import platform
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import cv2
import numpy as np
from finder_sources import (
    BCCD_UM_PER_PX,
    CHULA_WHITE_CELLS,
    Frame,
    at_border,
    bccd_frames,
    chula_frames,
    every_source,
    holds,
    iou,
    leukaemia_frames,
    masked_frames,
    pbc_frames,
)
from numpy.typing import NDArray
from revision import revision

from bloodedge.files import write_bytes, write_json
from bloodedge.finder import FinderParameters, Found, estimate_um_per_px, find_cells
from bloodedge.finder.frame_gate import check
from bloodedge.finder.network import PixelNetwork
from bloodedge.finder.picture import outlined
from bloodedge.imaging import Box, Image, ImagingSpec, as_image, cell_on_black, network_input, read_image
from bloodedge.machine import hardware_name
from bloodedge.simulation import Field, FieldSpec, SubjectStyle, paste_cells, render_field

Finder = Callable[[Image], Found]
LEAST_IOU = 0.5
LOOSE_IOU = 0.3
SOURCES = ("bccd", "pbc", "leukaemia_fields", "chula", "wbc_masks")

RED_CELLS = Path(__file__).with_name("red_cells.json")
"""Red cells measured by hand, ten of each data set."""


@dataclass
class Score:
    """Counts over frames, and the overlaps of what was matched."""

    true: int = 0
    false: int = 0
    missed: int = 0
    ious: list[float] = field(default_factory=list)

    def add(self, truth: Sequence[Box], found: Sequence[Box], least_iou: float = LEAST_IOU) -> list[tuple[int, int]]:
        """Count one frame; returns the matched pairs of indices."""
        pairs = matched(truth, found, least_iou)
        self.true += len(pairs)
        self.false += len(found) - len(pairs)
        self.missed += len(truth) - len(pairs)
        self.ious += [iou(truth[i], found[j]) for i, j in pairs]
        return pairs

    def to_json(self) -> dict[str, Any]:
        """Counts and rates, named."""
        found, truth = self.true + self.false, self.true + self.missed
        return {
            "annotated": truth,
            "found": found,
            "matched": self.true,
            "precision": round(self.true / max(1, found), 4),
            "recall": round(self.true / max(1, truth), 4),
            "mean_iou": round(float(np.mean(self.ious)), 4) if self.ious else 0.0,
        }


def matched(truth: Sequence[Box], found: Sequence[Box], least_iou: float = LEAST_IOU) -> list[tuple[int, int]]:
    """Pairs (truth, found), greedily from the best overlap down to the least, each box in one pair at most."""
    pairs = sorted(((iou(t, f), i, j) for (i, t), (j, f) in itertools.product(enumerate(truth), enumerate(found))))
    chosen: list[tuple[int, int]] = []
    for overlap, i, j in reversed(pairs):
        if overlap >= least_iou and all(i != a and j != b for a, b in chosen):
            chosen.append((i, j))
    return chosen


def score_boxes(frames: Iterable[Frame], find: Finder) -> Score:
    score = Score()
    for frame in frames:
        score.add(frame.boxes, [cell.box for cell in find(frame.bgr).cells])
    return score


def bccd(frames: list[Frame], parameters: FinderParameters) -> dict[str, Any]:
    given = partial(find_cells, um_per_px=BCCD_UM_PER_PX, parameters=parameters)
    return {
        "frames": len(frames),
        "scale_of_each_frame": {"all": score_boxes(frames, partial(find_cells, parameters=parameters)).to_json()},
        "one_scale": {"um_per_px": BCCD_UM_PER_PX, "all": score_boxes(frames, given).to_json()},
    }


def chula(frames: list[Frame], find: Finder) -> dict[str, Any]:
    false, real = 0, set()
    for frame in frames:
        for cell in find(frame.bgr).cells:
            if frame.name in CHULA_WHITE_CELLS and holds(cell.box, CHULA_WHITE_CELLS[frame.name]):
                real.add(frame.name)
            else:
                false += 1
    return {
        "frames": len(frames),
        "white_cells_by_eye": len(CHULA_WHITE_CELLS),
        "white_cells_found": len(real),
        "false_cells": false,
        "false_cells_per_frame": round(false / len(frames), 4),
        "cells_per_frame_if_none_were_real": round((false + len(real)) / len(frames), 4),
    }


def boxed(frames: list[Frame], find: Finder, least_iou: float = LEAST_IOU) -> dict[str, Any]:
    """Boxes of whole cells; what lies at the border counts for nothing."""
    score, wrong = Score(), set()
    for frame in frames:
        found = [cell.box for cell in find(frame.bgr).cells]
        pairs = {j for _, j in matched(frame.boxes, found, least_iou)}
        counted = [
            box
            for j, box in enumerate(found)
            if j in pairs
            or not (at_border(box, frame.bgr.shape) or any(iou(box, other) > LOOSE_IOU for other in frame.border))
        ]
        right = len(score.add(frame.boxes, counted, least_iou))
        if right < max(len(counted), len(frame.boxes)):
            wrong.add(frame.name)
    return score.to_json() | {"frames": len(frames), "frames_with_an_error": sorted(wrong)}


def single_cells(frames: list[Frame], find: Finder) -> dict[str, Any]:
    """Dice of the whole cell and of its nucleus in pictures of one cell, 0 where none was found."""
    cells, nuclei, missed = [], [], []
    for frame in frames:
        truth = np.zeros(frame.bgr.shape[:2], np.uint8) if frame.mask is None else frame.mask
        whole = (0, 0, truth.shape[1], truth.shape[0])
        best = nucleus = 0.0
        for cell in find(frame.bgr).cells:
            overlap = dice(whole, as_image(truth > _CYTOPLASM), cell.box, cell.mask)
            if overlap > best:
                best, nucleus = overlap, dice(whole, as_image(truth > _NUCLEUS), cell.box, cell.nucleus)
        cells.append(best)
        nuclei.append(nucleus)
        if best < LEAST_IOU:
            missed.append(frame.name)
    figures = {"cell": cells, "nucleus": nuclei}
    return {"pictures": len(frames), "missed": missed} | {
        f"{name}_dice_{kind}": round(float(measure(values)), 4)
        for name, values in figures.items()
        for kind, measure in (("mean", np.mean), ("median", np.median))
    }


_CYTOPLASM, _NUCLEUS = 64, 200
"""Levels of the masks between background (0), cytoplasm (128) and nucleus (255)."""


def sources(data: Path, finders: Mapping[str, Finder]) -> dict[str, Any]:
    """Every source by its finder."""

    def masked(find: Finder) -> dict[str, Any]:
        parts = ("jiangxi", "cellavision")
        return {part: single_cells(masked_frames(data / "wbc_masks", part), find) for part in parts}

    judges: dict[str, Callable[[Finder], dict[str, Any]]] = {
        "bccd": lambda find: score_boxes(bccd_frames(data / "bccd"), find).to_json(),
        "pbc": lambda find: boxed(pbc_frames(data / "pbc", fitted=False), find),
        "leukaemia_fields": lambda find: boxed(leukaemia_frames(data / "leukaemia_fields"), find, LOOSE_IOU),
        "chula": lambda find: chula(chula_frames(data / "chula"), find),
        "wbc_masks": masked,
    }
    return {name: judges[name](find) for name, find in finders.items()}


def left_out(data: Path, folder: Path) -> dict[str, Any]:
    """Every source for which there is a network that never saw it, by that network."""
    networks = {name: folder / f"without_{name}.tflite" for name in SOURCES}
    return sources(
        data,
        {
            name: partial(find_cells, network=PixelNetwork(path.read_bytes()))
            for name, path in networks.items()
            if path.exists()
        },
    )


def masks(fields: Iterable[Field], parameters: FinderParameters, *, alone: bool = True) -> dict[str, Any]:
    """Boxes and masks against the truth; ``alone``: what else is found in the fields is false."""
    score, dices = Score(), []
    for rendered in fields:
        found = find_cells(rendered.bgr, rendered.um_per_px, parameters)
        for i, j in score.add([cell.box for cell in rendered.cells], [cell.box for cell in found.cells]):
            dices.append(dice(rendered.cells[i].box, rendered.cells[i].mask, found.cells[j].box, found.cells[j].mask))
    figures = score.to_json()
    if not alone:
        del figures["precision"], figures["found"]
    return figures | {
        "dice_mean": round(float(np.mean(dices)), 4),
        "dice_p10": round(float(np.percentile(dices, 10)), 4),
    }


def dice(box: Box, mask: Image, other_box: Box, other_mask: Image) -> float:
    """Dice overlap of two masks that lie at two boxes."""
    left, top = min(box[0], other_box[0]), min(box[1], other_box[1])
    right, bottom = (max(box[k] + box[k + 2], other_box[k] + other_box[k + 2]) for k in (0, 1))
    canvases = []
    for (x, y, width, height), part in ((box, mask), (other_box, other_mask)):
        canvas = np.zeros((bottom - top, right - left), bool)
        canvas[y - top : y - top + height, x - left : x - left + width] = part > 0
        canvases.append(canvas)
    return 2 * float((canvases[0] & canvases[1]).sum()) / float(canvases[0].sum() + canvases[1].sum())


def simulated_fields(number: int) -> Iterable[Field]:
    for seed in range(number):
        light = ("warm", "neutral", "blue")[seed % 3]
        yield render_field(seed, FieldSpec.model_validate({"style": SubjectStyle.of(seed), "light": light}))


def pasted_fields(data: Path, bccd_part: list[Frame], chula_part: list[Frame]) -> Iterable[Field]:
    """C-NMC cells of fold 1 in real frames: Chula's without white cells, BCCD's with theirs painted over."""
    crops = sorted((data / "cnmc").glob("*/fold_1/*/*"))
    rng = np.random.default_rng(5)
    backgrounds = [(f.bgr, estimate_um_per_px(f.bgr)) for f in chula_part if f.name not in CHULA_WHITE_CELLS]
    backgrounds += [(without_white_cells(f), BCCD_UM_PER_PX) for f in bccd_part[::8]]
    for seed, (background, um_per_px) in enumerate(backgrounds):
        cells = [(cell_on_black(read_image(crops[i])), "normal") for i in rng.integers(0, len(crops), 2)]
        if um_per_px is not None:
            yield paste_cells(background, cells, um_per_px, seed)


def without_white_cells(frame: Frame) -> Image:
    """The frame with empty field, and its grain, over the white cells that were annotated or found."""
    found = [cell.box for cell in find_cells(frame.bgr, BCCD_UM_PER_PX).cells]
    mask = np.zeros(frame.bgr.shape[:2], np.float32)
    for x, y, width, height in (*frame.boxes, *found):
        cv2.rectangle(mask, (x - 8, y - 8), (x + width + 8, y + height + 8), 1.0, cv2.FILLED)
    cover = cv2.GaussianBlur(mask, (0, 0), 4)[:, :, None]
    level = np.percentile(frame.bgr.reshape(-1, 3), 85, axis=0)
    grain = np.random.default_rng(0).normal(0, 1.5, frame.bgr.shape)
    return np.clip(frame.bgr * (1 - cover) + (level + grain) * cover, 0, 255).astype(np.uint8)


def scale(bccd_part: list[Frame], chula_part: list[Frame], fields: Iterable[Field]) -> dict[str, Any]:
    """Diameter of red cells as the finder measures it, beside annotated boxes, hand measurements and the truth."""
    bccd_px = [7.5 / s for f in bccd_part if (s := estimate_um_per_px(f.bgr)) is not None]
    boxes_px = [statistics.median(f.red_cells_px) for f in bccd_part if f.red_cells_px]
    chula_px = [7.5 / s for f in chula_part if (s := estimate_um_per_px(f.bgr)) is not None]
    errors = [s / f.um_per_px - 1 for f in fields if (s := estimate_um_per_px(f.bgr)) is not None]
    return {
        "bccd_red_cell_px": _spread(bccd_px) | {"frames_measured": len(bccd_px), "frames": len(bccd_part)},
        "bccd_annotated_red_cell_box_px": _spread(boxes_px),
        "chula_red_cell_px": _spread(chula_px) | {"frames_measured": len(chula_px), "frames": len(chula_part)},
        "simulated_relative_error": _spread(errors),
        "by_hand": {"bccd": by_hand("bccd", bccd_part), "chula": by_hand("chula", chula_part)},
    }


def by_hand(data_set: str, frames: Iterable[Frame]) -> dict[str, float]:
    """Diameter in pixels (mean of width and height) of the hand-measured red cells, and the finder's in their frames.

    A frame's own error holds how much its one measured cell differs from its others; the medians' does so less.
    """
    measured = {
        Path(cell["file"]).stem: (cell["width_px"] + cell["height_px"]) / 2
        for cell in json.loads(RED_CELLS.read_text())["cells"]
        if cell["file"].startswith(f"{data_set}/")
    }
    scales = {Path(f.name).stem: estimate_um_per_px(f.bgr) for f in frames if Path(f.name).stem in measured}
    found = {name: 7.5 / s for name, s in scales.items() if s is not None}
    hand, finder = statistics.median(measured.values()), statistics.median(found.values())
    return {
        "cells": len(measured),
        "frames_measured": len(found),
        "hand_median_px": round(hand, 2),
        "finder_median_px": round(finder, 2),
        "relative_error": round(finder / hand - 1, 4),
        "largest_error_of_a_frame": round(max(abs(px / measured[name] - 1) for name, px in found.items()), 4),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    low, middle, high = np.percentile(values, [5, 50, 95])
    return {"p5": round(float(low), 4), "median": round(float(middle), 4), "p95": round(float(high), 4)}


def gate(frames: list[Frame]) -> dict[str, Any]:
    """How many frames pass as they are, blurred, moved by some pixels in four directions, and dimmed."""
    changes: dict[str, Callable[[Image], Image]] = {
        "as_taken": lambda bgr: bgr,
        "blurred_4_px": lambda bgr: as_image(cv2.GaussianBlur(bgr, (0, 0), 4)),
        "dimmed_to_a_fifth": lambda bgr: as_image(bgr // 5),
    }
    for px, degrees in itertools.product((6, 9, 15), (0, 45, 90, 135)):
        changes[f"moved_{px}_px_at_{degrees}_degrees"] = partial(moved, px=px, degrees=degrees)
    passed = {name: sum(check(change(f.bgr)).reason is None for f in frames) for name, change in changes.items()}
    return {"frames": len(frames), "passed": passed}


def refused(frames: Iterable[Frame]) -> dict[str, Any]:
    """How many frames the gate refuses as they are, by reason, and as a share."""
    results = [check(frame.bgr) for frame in frames]
    reasons = Counter(str(result.reason) for result in results if result.reason is not None)
    return {
        "frames": len(results),
        "refused": dict(sorted(reasons.items())),
        "share": round(reasons.total() / len(results), 4),
    }


def moved(bgr: Image, px: int, degrees: float) -> Image:
    """A frame uint8 (H, W, 3) as a stage moving evenly by ``px`` pixels during the exposure makes it."""
    middle = px // 2 + 2
    kernel = np.zeros((2 * middle + 1, 2 * middle + 1))
    for step in np.linspace(-px / 2, px / 2, 16 * px + 1):
        column, row = middle + step * np.cos(np.radians(degrees)), middle - step * np.sin(np.radians(degrees))
        x, y = int(column), int(row)
        right, down = column - x, row - y
        kernel[y : y + 2, x : x + 2] += np.outer((1 - down, down), (1 - right, right))
    return as_image(cv2.filter2D(bgr, -1, kernel / kernel.sum()))


def speed(frames: list[Frame], rounds: int = 3) -> dict[str, Any]:
    """Milliseconds of processor time of gate, finder and imaging per frame on one core, scale given."""
    cv2.setNumThreads(1)
    small = [frame.bgr for frame in frames[::10]]
    large = [np.asarray(cv2.resize(bgr, (2592, 1944), interpolation=cv2.INTER_CUBIC), np.uint8) for bgr in small[:6]]
    return {
        "640x480": _timed(small, BCCD_UM_PER_PX, rounds),
        "2592x1944": _timed(large, BCCD_UM_PER_PX * 640 / 2592, rounds),
        "worst_ms": {name: worst_ms(painted) for name, painted in hard_frames()},
    }


def hard_frames() -> Iterable[tuple[str, Image]]:
    """Frames without cells that hold as many pieces as can be, and a field of nothing but touching cells."""
    rng = np.random.default_rng(0)
    for side in (1, 4, 12, 30):
        odd = (np.arange(480)[:, None] // side + np.arange(640) // side) % 2
        yield f"checkerboard_{side}_px", np.array([(215, 220, 215), (150, 50, 110)], np.uint8)[odd]
    yield "noise", rng.integers(0, 256, (480, 640, 3), np.uint8)
    grain = cv2.resize(rng.integers(0, 256, (48, 64, 3), np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
    yield "grain", as_image(grain)
    crowd = FieldSpec(white_cells=(300, 300), um_per_px=0.4, red_cells_per_1000_um2=2)
    yield "crowded", render_field(1, crowd).bgr


def worst_ms(bgr: Image) -> float:
    """The most processor time that one frame takes at any of some scales, its own included."""
    times = []
    for um_per_px in (None, 0.05, 0.2, 1.0):
        start = process_time()
        find_cells(bgr, um_per_px)
        times.append((process_time() - start) * 1000)
    return round(max(times), 1)


def _timed(frames: list[NDArray[np.uint8]], um_per_px: float, rounds: int) -> dict[str, float]:
    gates, finds, imagings, spec = [], [], [], ImagingSpec()
    for bgr in frames * rounds:
        start = process_time()
        check(bgr)
        middle = process_time()
        found = find_cells(bgr, um_per_px)
        end = process_time()
        for cell in found.cells:
            network_input(cell.crop(bgr, um_per_px), spec)
        gates.append((middle - start) * 1000)
        finds.append((end - middle) * 1000)
        imagings.append((process_time() - end) * 1000)
    every = np.sum([gates, finds, imagings], axis=0)
    whole = float(np.median(every))
    return {
        "gate_ms_median": round(statistics.median(gates), 2),
        "find_ms_median": round(statistics.median(finds), 2),
        "imaging_ms_median": round(statistics.median(imagings), 2),
        "frames_per_second": round(1000 / whole, 1),
        "p99_over_p50": round(float(np.percentile(every, 99)) / whole, 2),
    }


def contact_sheet(frames: list[Frame], parameters: FinderParameters, target: Path) -> None:
    """A picture of every frame with a miss or a false cell; annotated boxes are drawn in white."""
    tiles = []
    for frame in frames:
        found = find_cells(frame.bgr, None, parameters)
        score = Score()
        score.add(frame.boxes, [cell.box for cell in found.cells])
        if score.false or score.missed:
            tiles.append(_tile(frame, found))
    while len(tiles) % 4:
        tiles.append(np.zeros_like(tiles[0]))
    rows = [np.hstack(tiles[k : k + 4]) for k in range(0, len(tiles), 4)]
    sheet = np.vstack(rows) if rows else np.zeros((16, 16, 3), np.uint8)
    write_bytes(target, cv2.imencode(".png", sheet)[1].tobytes())


def _tile(frame: Frame, found: Found) -> Image:
    picture = outlined(frame.bgr, found)
    for x, y, width, height in frame.boxes:
        cv2.rectangle(picture, (x, y), (x + width, y + height), (255, 255, 255), 1)
    cv2.putText(picture, frame.name, (5, 472), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 2)
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with all sources")
    parser.add_argument("--left-out", type=Path, metavar="FOLDER", help="networks that never saw one source each")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--parts", nargs="+", metavar="PART", help="measure these only, and keep the record's others")
    parser.add_argument("--sheet", type=Path, help="write a PNG of the BCCD frames with misses or false cells here")
    arguments = parser.parse_args()
    bccd_part = bccd_frames(arguments.data / "bccd")
    chula_part = chula_frames(arguments.data / "chula")
    parameters = FinderParameters()
    parts: dict[str, Callable[[], Any]] = {
        "bccd": lambda: bccd(bccd_part, parameters),
        "chula": lambda: chula(chula_part, find_cells),
        "sources": lambda: sources(arguments.data, dict.fromkeys(SOURCES, find_cells)),
        "left_out": lambda: left_out(arguments.data, arguments.left_out) if arguments.left_out else None,
        "simulated": lambda: masks(simulated_fields(50), parameters),
        "pasted": lambda: masks(pasted_fields(arguments.data, bccd_part, chula_part), parameters),
        "scale": lambda: scale(bccd_part, chula_part, simulated_fields(12)),
        "gate": lambda: gate(bccd_part + chula_part),
        "refused": lambda: {name: refused(frames) for name, frames in every_source(arguments.data).items()},
        "speed_one_core": lambda: speed(bccd_part),
    }
    wanted = arguments.parts or list(parts)
    if unknown := sorted(set(wanted) - set(parts)):
        parser.error(f"No part {', '.join(unknown)}; the parts are {', '.join(parts)}.")
    kept = json.loads(arguments.json.read_text(encoding="utf-8")) if arguments.parts and arguments.json else {}
    figures = kept or {
        "command": "python benchmarks/finder.py --data DATA --left-out NETWORKS --json benchmarks/results/finder.json",
        "cpu": hardware_name(),
        "python": platform.python_version(),
        "opencv": cv2.__version__,
    }
    figures |= {name: measure() for name, measure in parts.items() if name in wanted}
    figures["parameters"] = parameters.model_dump()
    figures["commits"] = {**figures.get("commits", {}), **dict.fromkeys(wanted, revision())}
    for name, value in figures.items():
        print(f"{name}: {value}")
    if arguments.json:
        write_json(arguments.json, figures)
    if arguments.sheet:
        contact_sheet(bccd_part, parameters, arguments.sheet)


if __name__ == "__main__":
    main()
