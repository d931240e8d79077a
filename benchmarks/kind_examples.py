"""The cells that the kind network is fitted to and judged by, with their surroundings."""

import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from finder_sources import PBC_UM_PER_PX, annotated, iou

from bloodedge.finder import find_cells
from bloodedge.finder.light import density_codes, light_at, stain_of
from bloodedge.imaging import SOURCE_LIGHT, Image, as_image, cell_on_black, read_image
from bloodedge.simulation import FieldSpec, render_field
from bloodedge_device.kinds import OUTPUTS

OF_PBC = {
    "BNE": "band neutrophil",
    "SNE": "segmented neutrophil",
    "LY": "lymphocyte",
    "MO": "monocyte",
    "EO": "eosinophil",
    "BA": "basophil",
    "MMY": "immature_granulocyte",
    "MY": "immature_granulocyte",
    "PMY": "immature_granulocyte",
    "ERB": "erythroblast",
    "PLT": "platelet",
    "RBC": "artefact",
}
CNMC_PER_PERSON = 60
RED_CELLS = 1500
SIMULATED_FIELDS = 150
MARGIN_UM = 1.5
"""What is kept round a cell, for masks that are too large."""
HELD_OUT_SHARE = 5
"""One in so many pictures of PBC, and people of C-NMC, is held out."""


@dataclass(frozen=True)
class Example:
    """A cell with its surroundings.

    density: uint8 (h, w, 3) BGR in 1 / 64; mask: uint8 (h, w); output: index in OUTPUTS.
    """

    source: str
    name: str
    density: Image
    mask: Image
    um_per_px: float
    output: int
    held_out: bool


def is_held_out(name: str) -> bool:
    return zlib.crc32(name.encode()) % HELD_OUT_SHARE == 0


def cut(density: Image, whole_mask: Image, um_per_px: float) -> tuple[Image, Image]:
    """The part round the mask, with a margin; (density, mask)."""
    margin = round(MARGIN_UM / um_per_px)
    x, y, width, height = cv2.boundingRect(whole_mask)
    window = np.s_[max(0, y - margin) : y + height + margin, max(0, x - margin) : x + width + margin]
    return density[window].copy(), whole_mask[window].copy()


def pbc_examples(data: Path) -> Iterator[Example]:
    """The middle cell of each picture; of some pictures a red cell and the platelets too."""
    boxes = annotated(data / "pbc" / "boxes.csv")
    for number, name in enumerate(sorted(boxes)):
        bgr = read_image(data / "pbc" / "images" / f"{name}.webp")
        held_out = is_held_out(name)
        stain = stain_of(bgr)
        height, width = bgr.shape[:2]
        light = light_at(stain.light, (0, 0, width, height), bgr.shape)
        density = density_codes(bgr, light)
        kind = name.split("_")[0]
        found = find_cells(bgr, PBC_UM_PER_PX).cells
        inside = [b for label, b in boxes[name] if label == kind and _middle_in(b, bgr.shape)]
        if inside and kind in OF_PBC:
            best = max(found, key=lambda cell: iou(cell.box, inside[0]), default=None)
            if best is not None and iou(best.box, inside[0]) > 0.6:
                mask = np.zeros(bgr.shape[:2], np.uint8)
                x, y, w, h = best.box
                mask[y : y + h, x : x + w] = best.mask
            else:
                mask = _ellipse(bgr.shape, inside[0])
            yield _example("pbc", name, density, mask, OF_PBC[kind], held_out)
        others = [(OF_PBC[label], b) for label, b in boxes[name] if label == "PLT" and min(b[2:]) > 20]
        red = [b for label, b in boxes[name] if label == "RBC" and b[0] > 0 and b[1] > 0 and b[0] + b[2] < width - 1]
        if red and number % (len(boxes) // RED_CELLS) == 0:
            rng = np.random.default_rng(number)
            first = red[rng.integers(len(red))]
            near = [b for b in red if abs(b[0] - first[0]) + abs(b[1] - first[1]) < 110]
            mask = _ellipse(bgr.shape, first)
            for b in near[: int(rng.integers(1, 4))]:
                mask |= _ellipse(bgr.shape, b)
            yield _example("pbc", f"{name}/red", density, mask, "artefact", held_out)
        for part, (output, box) in enumerate(others[:2]):
            yield _example("pbc", f"{name}/{part}", density, _ellipse(bgr.shape, box), output, held_out)


def simulated_examples() -> Iterator[Example]:
    """Lymphocytes and blasts as the simulated microscope draws them."""
    for seed in range(SIMULATED_FIELDS):
        rng = np.random.default_rng(seed)
        spec = FieldSpec(
            um_per_px=float(rng.uniform(0.08, 0.16)), white_cells=(2, 4), defocus_um=float(rng.uniform(0, 0.3))
        )
        field = render_field(seed, spec)
        density = density_codes(field.bgr, light_at(stain_of(field.bgr).light, (0, 0, 640, 480), field.bgr.shape))
        for number, cell in enumerate(find_cells(field.bgr, field.um_per_px).cells):
            if cell.touches_border:
                continue
            mask = np.zeros(field.bgr.shape[:2], np.uint8)
            x, y, width, height = cell.box
            mask[y : y + height, x : x + width] = cell.mask
            part, its_mask = cut(density, mask, field.um_per_px)
            name, output = f"{seed}/{number}", OUTPUTS.index("lymphocyte")
            yield Example("simulated", name, part, its_mask, field.um_per_px, output, held_out=False)


def _middle_in(box: tuple[int, int, int, int], shape: tuple[int, ...]) -> bool:
    x, y, width, height = box
    return x <= shape[1] // 2 < x + width and y <= shape[0] // 2 < y + height


def _ellipse(shape: tuple[int, ...], box: tuple[int, int, int, int]) -> Image:
    mask = np.zeros(shape[:2], np.uint8)
    x, y, width, height = box
    cv2.ellipse(mask, (x + width // 2, y + height // 2), (max(1, width // 2), max(1, height // 2)), 0, 0, 360, 255, -1)
    return mask


def _example(source: str, name: str, density: Image, mask: Image, output: str, held_out: bool) -> Example:
    part, its_mask = cut(density, mask, PBC_UM_PER_PX)
    return Example(source, name, part, its_mask, PBC_UM_PER_PX, OUTPUTS.index(output), held_out)


def cnmc_examples(data: Path) -> Iterator[Example]:
    """Cells of every person, blasts and normal ones: all of the lymphoid line."""
    people: defaultdict[str, list[Path]] = defaultdict(list)
    for path in sorted((data / "cnmc").rglob("*.webp")):
        people[path.stem.upper().split("_")[1]].append(path)
    for person, paths in sorted(people.items()):
        held_out = is_held_out(person)
        for path in paths if held_out else paths[:: max(1, len(paths) // CNMC_PER_PERSON)]:
            cell = cell_on_black(read_image(path))
            density = density_codes(cell.bgr, (SOURCE_LIGHT,) * 3)
            halves = [
                as_image(cv2.resize(i, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
                for i in (density, cell.mask)
            ]
            inner = as_image(cv2.erode(((halves[1] > 127) * np.uint8(255)).astype(np.uint8), np.ones((3, 3), np.uint8)))
            halves[0][inner == 0] = 0  # nothing beside the cell, for masks that are too large
            density, mask = cut(halves[0], inner, 2 * cell.um_per_px)
            yield Example("cnmc", path.stem, density, mask, 2 * cell.um_per_px, OUTPUTS.index("lymphocyte"), held_out)
