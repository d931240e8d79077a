"""Train the cell finder's pixel network, for release or with one source left out.

    python benchmarks/finder_network.py --data ../shared/data bloodedge/finder/network.tflite
    python benchmarks/finder_network.py --data ../shared/data --without pbc build/finder/without_pbc.tflite

An int8 U-Net (Ronneberger et al., 2015) over optical density at half a micrometre per pixel says whether each pixel
belongs to a white cell, and whether it lies in the inner half of one. Its stains are drawn far wider than any
microscope's: dyes turned and weakened, light and exposure changed, red cells of a colour of their own. Cells of one
source are pasted, alone and in crowds, some of them smudged, into fields of the others. About a quarter of an hour on
two cores; threads add up in any order, so that a second run gives a like network, not the same bytes.
"""

import argparse
import os
import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import cv2
import keras
import numpy as np
import tensorflow as tf
from finder_sources import (
    BCCD_UM_PER_PX,
    CHULA_WHITE_CELLS,
    PBC_UM_PER_PX,
    Frame,
    bccd_frames,
    chula_frames,
    iou,
    leukaemia_frames,
    masked_frames,
    pbc_frames,
)
from numpy.typing import NDArray

from bloodedge.files import write_bytes
from bloodedge.finder import estimate_um_per_px, find_cells
from bloodedge.finder.light import stain_of
from bloodedge.finder.network import CORE_SHARE, UM_PER_PX
from bloodedge.imaging import Box, Image, as_image, cell_on_black, read_image
from bloodedge.simulation import FieldSpec, SubjectStyle, paste_cells, render_field

Floats = NDArray[Any]
Rng = np.random.Generator

SIDE = 96
"""Pixels along a training patch."""
TILE = (96, 128)
"""Rows and columns in pixels that the released network reads at once."""
CODES = 100
"""Codes of density in one unit, as the finder gives them."""
INPUT_STEP = 50
"""Codes in one unit of the network's float input; its int8 form reads the codes themselves."""
BATCH, STEPS, LEARNING_RATE = 20, 1500, 3e-3
RELEASED_STEPS = 3000
SHARES = {
    "platelet": 0.9,
    "pbc": 3.0,
    "jiangxi": 1.2,
    "cellavision": 2.0,
    "bccd": 2.0,
    "chula": 1.3,
    "leukaemia_fields": 2.5,
    "cnmc_chula": 1.0,
    "cnmc_bccd": 1.0,
    "simulated": 0.7,
    "cnmc_simulated": 1.2,
}
"""How often patches of each source are drawn; platelet: pictures of PBC of nothing but large platelets."""
SCALES = {"jiangxi": 0.15, "cellavision": 0.09, "leukaemia_fields": 0.31}
"""Micrometres per pixel, by their cells' sizes."""
LEFT_OUT = {
    "wbc_masks": {"jiangxi", "cellavision"},
    "pbc": {"pbc", "platelet"},
    "bccd": {"bccd", "cnmc_bccd"},
    "chula": {"chula", "cnmc_chula"},
    "leukaemia_fields": {"leukaemia_fields"},
}
"""What each source takes with it when it is left out."""
DYES = np.array([(0.834750233, 0.513556283, 0.196330403), (0.092789, 0.954111, 0.283111)])
"""Densities (red, green, blue) of methylene blue and eosin, as G. Landini measured them for ImageJ's Colour
Deconvolution plugin ("Giemsa")."""


@dataclass(frozen=True)
class Example:
    """A field to learn from: codes uint8 (H, W, 3) of density; labels uint8 (H, W, 3): cell, core, and how certain."""

    source: str
    codes: Image
    labels: Image
    um_per_px: float
    middles: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class CutOut:
    """A cell to paste: codes uint8 (h, w, 3), labels uint8 (h, w, 2): cell and core."""

    codes: Image
    labels: Image
    um_per_px: float


Masked = tuple[Box, Image]


class Labels:
    """Cell, core and certainty, uint8 (H, W) each, of a field that is being labelled."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.cell, self.core = (np.zeros(shape[:2], np.uint8) for _ in range(2))
        self.certain = np.full(shape[:2], 255, np.uint8)
        self.middles: list[tuple[float, float]] = []

    def leave_open(self, boxes: Iterable[Box]) -> None:
        """Say nothing of what lies in the boxes."""
        for x, y, width, height in boxes:
            cv2.rectangle(self.certain, (x, y), (x + width, y + height), 0, cv2.FILLED)

    def add_mask(self, box: Box, mask: Image) -> None:
        """A cell whose mask is known."""
        x, y, width, height = box
        whole = np.zeros_like(self.cell)
        whole[y : y + height, x : x + width] = mask
        self.certain[whole > 0] = 255
        self._add(whole)

    def add_box(self, box: Box, share: float) -> None:
        """A cell of which only a box is known: an ellipse in ``share`` of it, uncertain near the rim."""
        x, y, width, height = box
        middle = int(x + width / 2), int(y + height / 2)
        whole, rim, inner = (np.zeros_like(self.cell) for _ in range(3))
        axes = [(max(1, int(width / 2 * part)), max(1, int(height / 2 * part))) for part in (share, 0.66)]
        cv2.ellipse(whole, middle, axes[0], 0, 0, 360, 255, cv2.FILLED)
        cv2.rectangle(rim, (x - 2, y - 2), (x + width + 2, y + height + 2), 255, cv2.FILLED)
        cv2.ellipse(inner, middle, axes[1], 0, 0, 360, 255, cv2.FILLED)
        self.certain[(rim > 0) & (self.cell == 0)] = 0
        self.certain[inner > 0] = 255
        self._add(whole)

    def _add(self, whole: Image) -> None:
        moments = cv2.moments(whole, binaryImage=True)
        x, y = moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]
        shrink = np.array([[CORE_SHARE, 0, x * (1 - CORE_SHARE)], [0, CORE_SHARE, y * (1 - CORE_SHARE)]])
        core = cv2.warpAffine(whole, shrink, whole.shape[::-1], flags=cv2.INTER_NEAREST)
        self.cell |= whole
        self.core |= as_image(core)
        self.middles.append((x, y))

    def example(self, source: str, bgr: Image, um_per_px: float) -> Example:
        """The field, shrunk to a quarter of a micrometre per pixel at most."""
        factor = max(1, int(0.25 / um_per_px))
        size = bgr.shape[1] // factor, bgr.shape[0] // factor
        codes, labels = stain_of(bgr).codes(CODES), np.dstack([self.cell, self.core, self.certain])
        parts = (np.ascontiguousarray(p[: size[1] * factor, : size[0] * factor]) for p in (codes, labels))
        small = [as_image(cv2.resize(part, size, interpolation=cv2.INTER_AREA)) for part in parts]
        middles = tuple((x / factor, y / factor) for x, y in self.middles)
        return Example(source, small[0], small[1], um_per_px * factor, middles)


def examples(data: Path) -> Iterator[Example]:
    """Every source's fields. Where only boxes are known, masks are the finder's own where they fit the boxes."""
    for frame in bccd_frames(data / "bccd"):
        yield _boxed("bccd", frame, BCCD_UM_PER_PX, 0.7)
    for frame in chula_frames(data / "chula"):
        labels = Labels(frame.bgr.shape)
        for cell in find_cells(frame.bgr).cells if frame.name in CHULA_WHITE_CELLS else ():
            labels.add_mask(cell.box, cell.mask)
        yield labels.example("chula", frame.bgr, estimate_um_per_px(frame.bgr) or 0.19)
    for frame in pbc_frames(data / "pbc", fitted=True):
        yield _boxed("platelet" if frame.name.startswith("PLATELET") else "pbc", frame, PBC_UM_PER_PX, 0.85)
    for frame in leukaemia_frames(data / "leukaemia_fields"):
        yield _boxed("leukaemia_fields", frame, SCALES["leukaemia_fields"], 0.35, share=0.75, ring_px=34)
    for part in ("jiangxi", "cellavision"):
        for frame in masked_frames(data / "wbc_masks", part):
            height, width = frame.bgr.shape[:2]
            labels = Labels(frame.bgr.shape)
            labels.leave_open(_ring(frame.bgr.shape, width // 12))
            if frame.mask is not None:
                labels.add_mask((0, 0, width, height), ((frame.mask > 64) * np.uint8(255)).astype(np.uint8))
            yield labels.example(part, frame.bgr, SCALES[part])
    yield from _rendered(data)


def _boxed(
    source: str, frame: Frame, um_per_px: float, least_iou: float, share: float = 1.0, ring_px: int = 0
) -> Example:
    """A field of which boxes are known: a cell fills ``share`` of each; in a ring along the border some lack."""
    labels, found = Labels(frame.bgr.shape), find_cells(frame.bgr, um_per_px).cells
    if ring_px:
        labels.leave_open(_ring(frame.bgr.shape, ring_px))
    for box in (*frame.boxes, *frame.border):
        best = max(found, key=lambda cell: iou(cell.box, box), default=None)
        if best is not None and iou(best.box, box) >= least_iou:
            labels.add_mask(best.box, best.mask)
        else:
            labels.add_box(box, share)
    return labels.example(source, frame.bgr, um_per_px)


def _ring(shape: tuple[int, ...], width_px: int) -> list[Box]:
    """Along the border, where annotators left cells out."""
    height, width = shape[:2]
    return [
        (0, 0, width, width_px),
        (0, height - width_px, width, width_px),
        (0, 0, width_px, height),
        (width - width_px, 0, width_px, height),
    ]


def _rendered(data: Path) -> Iterator[Example]:
    """Simulated fields, and C-NMC's cells (fold 1 is kept for ``finder.py``) in them and in real ones."""
    from finder import without_white_cells  # it imports the finder's figures, this only its backgrounds

    crops = [path for path in sorted((data / "cnmc").glob("*/fold_*/*/*")) if path.parts[-3] != "fold_1"]
    rng = np.random.default_rng(5)

    def some(number: int) -> list[tuple[Any, str]]:
        return [(cell_on_black(read_image(crops[i])), "normal") for i in rng.integers(0, len(crops), number)]

    empty = [frame.bgr for frame in chula_frames(data / "chula") if frame.name not in CHULA_WHITE_CELLS]
    fields = [("cnmc_chula", bgr, estimate_um_per_px(bgr) or 0.19) for bgr in empty * 2]
    frames = bccd_frames(data / "bccd")[1::5]
    fields += [("cnmc_bccd", without_white_cells(frame), BCCD_UM_PER_PX) for frame in frames]
    for seed, (source, bgr, um_per_px) in enumerate(fields, 1):
        pasted = paste_cells(bgr, some(3), um_per_px, seed)
        yield _masked(source, pasted.bgr, um_per_px, [(cell.box, cell.mask) for cell in pasted.cells])
    for seed in range(160):
        spec = _field_spec(seed)
        if seed % 2:
            background = render_field(seed, spec.model_copy(update={"white_cells": (0, 0)})).bgr
            field = paste_cells(background, some(3 if seed % 4 == 1 else 12), spec.um_per_px, seed)
        else:
            field = render_field(seed, spec)
        source = "cnmc_simulated" if seed % 2 else "simulated"
        yield _masked(source, field.bgr, spec.um_per_px, [(cell.box, cell.mask) for cell in field.cells])


def _masked(source: str, bgr: Image, um_per_px: float, cells: list[Masked]) -> Example:
    labels = Labels(bgr.shape)
    for box, mask in cells:
        labels.add_mask(box, mask)
    return labels.example(source, bgr, um_per_px)


def _field_spec(seed: int) -> FieldSpec:
    rng = np.random.default_rng(seed)
    return FieldSpec.model_validate(
        {
            "style": SubjectStyle.of(seed),
            "light": ("warm", "neutral", "blue")[seed % 3],
            "um_per_px": 0.15,
            "width": 480,
            "height": 360,
            "white_cells": (0, 5) if seed % 4 else (8, 20),
            "red_cells_per_1000_um2": float(rng.uniform(0, 16)),
            "overlap": float(rng.uniform(0.1, 0.6)),
            "platelets_per_1000_um2": float(rng.uniform(0, 3)),
            "stain_strength": float(rng.uniform(0.6, 1.6)),
            "defocus_um": float(rng.uniform(0.05, 0.4)),
            "sensor_noise": float(rng.uniform(0.5, 3)),
        }
    )


def cut_outs(fields: Iterable[Example]) -> dict[str, list[CutOut]]:
    """Whole cells with known outlines, by source."""
    bank: defaultdict[str, list[CutOut]] = defaultdict(list)
    for field in fields:
        if field.source in ("simulated", "leukaemia_fields"):
            continue
        _, pieces = cv2.connectedComponents((field.labels[:, :, 0] > 127).astype(np.uint8))
        height, width = pieces.shape
        for x, y in field.middles:
            piece = pieces[min(height - 1, int(y)), min(width - 1, int(x))]
            if not piece:
                continue
            mask = (pieces == piece).astype(np.uint8)
            left, top, w, h = cv2.boundingRect(mask)
            window = np.s_[top : top + h, left : left + w]
            inside = left > 1 and top > 1 and left + w < width - 1 and top + h < height - 1
            open_share = float((field.labels[window][:, :, 2] < 250).mean())
            if inside and open_share <= 0.02 and 30 < w * h * field.um_per_px**2 < 700:
                labels = np.dstack([mask[window] * np.uint8(255), field.labels[window][:, :, 1]])
                bank[field.source].append(CutOut(field.codes[window].copy(), labels, field.um_per_px))
    return dict(bank)


def patch(field: Example, bank: dict[str, list[CutOut]], rng: Rng) -> tuple[Floats, Floats]:
    """(codes float (SIDE, SIDE, 3), labels 0..1 (SIDE, SIDE, 3)) of a place in a field, under a light of its own."""
    if rng.random() < 0.04:
        return nothing(rng)
    density, labels, inside = _place(field, rng)
    if bank and rng.random() < 0.35:
        density, labels = pasted(density, labels, bank, rng)
    density = recoloured(density, labels, rng)
    density = photographed(density, rng)
    density[inside == 0] = 0
    labels[inside == 0] = 0
    if rng.random() < 0.1:
        density, labels = soiled(density, labels, rng)
    return np.clip(np.rint(density * CODES), 0, 255), labels


def _place(field: Example, rng: Rng) -> tuple[Floats, Floats, Image]:
    """(density, labels, 1 inside the field) round a cell or anywhere, turned, mirrored, zoomed and squeezed."""
    wide = rng.random() < 0.7
    zoom = float(np.exp(rng.uniform(np.log(0.68), np.log(1.47)) if wide else rng.normal(0, 0.12)))
    scale = field.um_per_px / UM_PER_PX * zoom
    height, width = field.codes.shape[:2]
    squeeze = float(np.exp(rng.normal(0, 0.12))) if rng.random() < 0.5 else 1.0
    if field.middles and rng.random() < 0.65:
        near = np.array(field.middles[rng.integers(len(field.middles))])
        middle = near + rng.uniform(-30, 30, 2) / scale * 0.7
    else:
        middle = rng.uniform(0, 1, 2) * (width, height)
    turn = rng.choice(4) * np.pi / 2 + (rng.normal(0, 0.15) if rng.random() < 0.5 else 0)
    move = _affine(turn, (scale * squeeze, scale / squeeze), middle, np.array([SIDE / 2, SIDE / 2]), rng)
    codes = field.codes if scale >= 0.75 else as_image(cv2.GaussianBlur(field.codes, (0, 0), 0.4 / scale))
    border = cv2.BORDER_REFLECT if rng.random() < 0.6 else cv2.BORDER_CONSTANT
    whole = np.ones((height, width), np.uint8)
    density = cv2.warpAffine(codes, move, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=border)
    labels = cv2.warpAffine(field.labels, move, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=border)
    inside = cv2.warpAffine(whole, move, (SIDE, SIDE), flags=cv2.INTER_NEAREST, borderMode=border)
    shares = labels.astype(np.float32) / 255
    shares[:, :, 2] = shares[:, :, 2] > 0.9
    return density.astype(np.float32) / CODES, shares, as_image(inside)


def _affine(turn: float, scales: tuple[float, float], origin: Floats, target: Floats, rng: Rng) -> Floats:
    """A transform (2, 3): turned, scaled and mirrored by chance, so that ``origin`` comes to lie at ``target``."""
    move = np.zeros((2, 3))
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    move[:, :2] = rotation @ np.diag(scales)
    if rng.random() < 0.5:
        move[:, 0] *= -1
    move[:, 2] = target - move[:, :2] @ origin
    return move


def pasted(density: Floats, labels: Floats, bank: dict[str, list[CutOut]], rng: Rng) -> tuple[Floats, Floats]:
    """With cells of other fields, side by side like those of marrow or alone; some smudged."""
    sources = list(bank)
    number = int(rng.choice([1, 2, 4, 9, 16], p=[0.35, 0.25, 0.2, 0.12, 0.08]))
    source, smudge = sources[rng.integers(len(sources))], rng.random() < 0.12
    gain = np.exp(rng.normal(0, 0.25, 3)) if rng.random() < 0.5 else np.ones(3)
    crowd, zoom, heart = rng.uniform(14, SIDE * 0.45), np.exp(rng.normal(0, 0.2)), rng.uniform(20, SIDE - 20, 2)
    taken = labels[:, :, 0] > 0.3
    for _ in range(number):
        if rng.random() < 0.3:
            source = sources[rng.integers(len(sources))]
        cell = bank[source][rng.integers(len(bank[source]))]
        target = np.clip(heart + rng.normal(0, 1, 2) * crowd, -3, SIDE + 3)
        codes, shares = _moved(cell, zoom * float(np.exp(rng.normal(0, 0.08))), target, rng, smudge=smudge)
        mask = shares[:, :, 0] > 0.5
        if not mask.any() or (mask & taken).sum() > 0.12 * mask.sum():
            continue
        taken |= mask
        cover = shares[:, :, :1]
        density = density * (1 - cover) + cover * codes * gain.astype(np.float32)
        labels[mask] = np.stack([np.ones(mask.sum()), shares[:, :, 1][mask], np.ones(mask.sum())], axis=1)
    return density, labels


def _moved(cell: CutOut, zoom: float, target: Floats, rng: Rng, *, smudge: bool) -> tuple[Floats, Floats]:
    """A cell's density and labels, turned and moved into a patch; a smudge is larger, paler and torn."""
    scale = cell.um_per_px / UM_PER_PX * zoom * (rng.uniform(1, 1.8) if smudge else 1)
    squeeze = rng.uniform(0.7, 1.2, 2) if smudge else np.ones(2)
    origin = np.array(cell.codes.shape[1::-1]) / 2
    move = _affine(rng.uniform(0, 2 * np.pi), (scale * squeeze[0], scale * squeeze[1]), origin, target, rng)
    blurred = cell.codes if scale >= 0.75 else cv2.GaussianBlur(cell.codes, (0, 0), 0.4 / scale)
    density = cv2.warpAffine(blurred, move, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    labels = cv2.warpAffine(cell.labels, move, (SIDE, SIDE), flags=cv2.INTER_LINEAR)
    codes, shares = density.astype(np.float32) / CODES, labels.astype(np.float32) / 255
    if smudge:
        down, across = np.mgrid[:SIDE, :SIDE].astype(np.float32)
        tear_x, tear_y = (_waves(2, 10, rng) + _waves(5, 35, rng) for _ in range(2))
        torn = [cv2.remap(image, across + tear_x, down + tear_y, cv2.INTER_LINEAR) for image in (codes, shares)]
        return torn[0] * rng.uniform(0.35, 0.8), torn[1]
    return codes, shares


def _waves(width_px: float, height_px: float, rng: Rng) -> Floats:
    return cv2.GaussianBlur(rng.normal(0, 1, (SIDE, SIDE)).astype(np.float32), (0, 0), width_px) * height_px


def recoloured(density: Floats, labels: Floats, rng: Rng) -> Floats:
    """Under other dyes; in two of five patches what is no white cell has a hue and a strength of its own."""
    mixed = dyes(rng)
    if rng.random() < 0.3:
        hues = np.abs(rng.normal(0, 1, (3, 3))) ** rng.uniform(0.5, 2)
        share = rng.uniform(0.3, 1)
        mixed = (1 - share) * mixed + share * hues / hues.sum(axis=0, keepdims=True) * np.exp(rng.normal(0, 0.2, 3))
    stained = density @ mixed.astype(np.float32) if rng.random() < 0.85 else density
    if rng.random() < 0.4:
        bluish = np.array([rng.uniform(0.3, 1), 1, rng.uniform(0.1, 1.5)])
        hue = bluish if rng.random() < 0.7 else rng.uniform(0.2, 1.4, 3)
        share = rng.uniform(0.4, 1)
        grey = (density @ np.array([0.25, 0.6, 0.15], np.float32))[:, :, None]
        other = ((1 - share) * stained + share * grey * hue.astype(np.float32)) * np.exp(rng.normal(0.1, 0.35))
        white = np.maximum(labels[:, :, 0], 1 - labels[:, :, 2]) * (labels[:, :, 0] > 0.5)
        cover = cv2.GaussianBlur(white.astype(np.float32), (0, 0), 0.6)[:, :, None]
        stained = stained * cover + other * (1 - cover)
    return np.asarray(stained, np.float32)


def dyes(rng: Rng) -> Floats:
    """A matrix (3, 3) that takes BGR density from the right to that under turned and weakened dyes."""
    known = np.vstack([DYES, np.cross(*DYES)])
    known /= np.linalg.norm(known, axis=1, keepdims=True)
    turned = known.copy()
    turned[:2] += rng.choice([0, 0.15, 0.35], p=[0.2, 0.4, 0.4]) * rng.normal(0, 1, (2, 3))
    if rng.random() < 0.25:  # red cells become as blue as nuclei
        share = rng.uniform(0.3, 1)
        turned[1] = (1 - share) * turned[1] + share * turned[0] * rng.uniform(0.8, 1.2)
    turned = np.clip(turned, -0.05, None)
    turned /= np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 0.1)
    turned[:2] *= np.exp(rng.normal(0, 0.3, (2, 1)))
    mixed = np.linalg.inv(known) @ turned @ np.diag(np.exp(rng.normal(0, 0.15, 3)))
    return np.asarray(mixed[::-1, ::-1])


def photographed(density: Floats, rng: Rng) -> Floats:
    """Under another light, out of focus or sharpened, with grain, and with channels that go black."""
    density = density * np.float32(np.exp(rng.normal(0, 0.25)))
    if rng.random() < 0.4:
        slope = np.linspace(-1, 1, SIDE, dtype=np.float32)
        tilt = rng.normal(0, 0.02) * slope[:, None, None] + rng.normal(0, 0.02) * slope[None, :, None]
        density = density + (rng.normal(0, 0.04, 3) + tilt).astype(np.float32)
    if rng.random() < 0.35:
        density = cv2.GaussianBlur(density, (0, 0), rng.uniform(0.4, 1.4))
    elif rng.random() < 0.15:
        density = density + 0.6 * (density - cv2.GaussianBlur(density, (0, 0), 1.0))
    if rng.random() < 0.5:
        density = density + rng.normal(0, rng.uniform(0.003, 0.04), density.shape).astype(np.float32)
    return np.clip(density, 0, rng.uniform(0.6, 2.4, 3) if rng.random() < 0.3 else 2.4)


def soiled(density: Floats, labels: Floats, rng: Rng) -> tuple[Floats, Floats]:
    """With flat specks, grey or of blue dye, which are no cells."""
    for _ in range(rng.integers(1, 4)):
        speck = np.zeros((SIDE, SIDE), np.uint8)
        x, y = (int(v) for v in rng.integers(0, SIDE, 2))
        axes = int(rng.integers(1, 14)), int(rng.integers(1, 14))
        cv2.ellipse(speck, (x, y), axes, int(rng.integers(180)), 0, 360, 255, cv2.FILLED)
        cover = cv2.GaussianBlur(speck, (0, 0), 0.7).astype(np.float32)[:, :, None] / 255
        hue = np.ones(3) if rng.random() < 0.6 else rng.uniform(0.2, 1, 3) * np.array([0.5, 0.8, 1.2])
        density = density * (1 - cover) + cover * (rng.uniform(0.3, 1.2) * hue).astype(np.float32)
        labels[:, :, :2] *= 1 - (cover > 0.3)
    return density, labels


def nothing(rng: Rng) -> tuple[Floats, Floats]:
    """Noise, grain, slopes, checkerboards and bars, which hold no cell."""
    density = np.zeros((SIDE, SIDE, 3)) + rng.uniform(0, 0.6, 3) * rng.integers(0, 2)
    slope, kind = np.linspace(-1, 1, SIDE), int(rng.integers(5))
    if kind == 0:
        density += rng.normal(0, rng.uniform(0.01, 0.6), density.shape) * rng.uniform(0, 1, 3)
    elif kind == 1:
        size = rng.uniform(1, 12)
        grain = cv2.GaussianBlur(rng.normal(0, 1, (SIDE, SIDE, 3)).astype(np.float32), (0, 0), size)
        density += grain * size * rng.uniform(0.1, 1.5)
    elif kind == 2:
        density += slope[:, None, None] * rng.normal(0, 0.4) + slope[None, :, None] * rng.normal(0, 0.4)
    elif kind == 3:
        side = int(rng.integers(1, 40))
        odd = (np.arange(SIDE)[:, None] // side + np.arange(SIDE) // side) % 2
        density += odd[:, :, None] * rng.uniform(0, 1.2, 3)
    else:
        bars = np.zeros((SIDE, SIDE), np.uint8)
        for _ in range(rng.integers(1, 4)):
            ends = [(int(x), int(y)) for x, y in rng.integers(-20, SIDE + 20, (2, 2))]
            cv2.line(bars, ends[0], ends[1], 1, int(rng.integers(1, 30)))
        density += bars[:, :, None] * rng.uniform(0, 1.2, 3)
    density += rng.normal(0, rng.uniform(0.003, 0.03), density.shape)
    labels = np.zeros((SIDE, SIDE, 3), np.float32)
    labels[:, :, 2] = 1
    return np.clip(np.rint(np.clip(density, 0, 2.4) * CODES), 0, 255), labels


def network() -> Any:
    """From density (H / 2, W / 2, 12), 2x2 pixels folded into one, to log-odds (H / 2, W / 2, 8), folded likewise."""

    def block(x: Any, filters: int, stride: int = 1, size: int = 3) -> Any:
        x = keras.layers.Conv2D(filters, size, strides=stride, padding="same", use_bias=False)(x)
        return keras.layers.ReLU(6.0)(keras.layers.BatchNormalization(momentum=0.95)(x))

    def up(x: Any, filters: int, beside: Any) -> Any:
        return keras.layers.Add()([keras.layers.UpSampling2D(2)(block(x, filters, size=1)), beside])

    image = keras.Input((None, None, 12))
    half = block(block(image, 24), 24)
    quarter = block(block(half, 40, 2), 40)
    eighth = block(block(block(quarter, 56, 2), 56), 56)
    bottom = block(block(eighth, 56, 2), 56)
    x = block(up(bottom, 56, eighth), 56)
    x = block(up(x, 40, quarter), 40)
    x = block(up(x, 24, half), 24)
    return keras.Model(image, keras.layers.Conv2D(8, 3, padding="same")(x))


def folded(images: Floats) -> Floats:
    """Each 2x2 pixels of (N, H, W, C) as one of (N, H / 2, W / 2, 4 C)."""
    number, height, width, channels = images.shape
    blocks = images.reshape(number, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(blocks.reshape(number, height // 2, width // 2, 4 * channels))


def batches(fields: list[Example], rng: Rng) -> Iterator[tuple[Floats, Floats]]:
    """Without end: (inputs float32 (BATCH, SIDE / 2, SIDE / 2, 12), labels float32 (BATCH, SIDE, SIDE, 3))."""
    by_source: defaultdict[str, list[Example]] = defaultdict(list)
    for field in fields:
        by_source[field.source].append(field)
    sources = list(by_source)
    shares = np.array([SHARES[source] for source in sources])
    bank = cut_outs(fields)
    while True:
        drawn = [by_source[sources[rng.choice(len(sources), p=shares / shares.sum())]] for _ in range(BATCH)]
        patches = [patch(of_source[rng.integers(len(of_source))], bank, rng) for of_source in drawn]
        codes, labels = (np.stack(part).astype(np.float32) for part in zip(*patches, strict=True))
        yield folded(codes / INPUT_STEP), labels


def fit(model: Any, source: Iterator[tuple[Floats, Floats]], steps: int) -> None:
    """Cross-entropy and soft Dice of the certain pixels, AdamW, warm-up and cosine decay."""
    rate = keras.optimizers.schedules.CosineDecay(
        LEARNING_RATE / 10, steps, alpha=0.01, warmup_target=LEARNING_RATE, warmup_steps=100
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=1e-3)

    @tf.function  # type: ignore[untyped-decorator]
    def step(inputs: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            odds = tf.nn.depth_to_space(model(inputs, training=True), 2)
            truth, certain = labels[..., :2], labels[..., 2:]
            entropy = tf.nn.sigmoid_cross_entropy_with_logits(truth, odds) * certain * tf.constant([1.0, 1.5])
            guess, truth = tf.sigmoid(odds) * certain, truth * certain
            both, either = tf.reduce_sum(guess * truth, [0, 1, 2]), tf.reduce_sum(guess + truth, [0, 1, 2])
            loss = tf.reduce_sum(entropy) / tf.reduce_sum(certain)
            loss += 0.3 * tf.reduce_sum(1 - (2 * both + 1) / (either + 1))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    ready: queue.Queue[tuple[Floats, Floats]] = queue.Queue(4)

    def feed() -> None:
        for _ in range(steps):
            ready.put(next(source))

    threading.Thread(target=feed, daemon=True).start()
    losses = []
    for number in range(1, steps + 1):
        losses.append(float(step(*ready.get())))
        if number % 100 == 0:
            print(f"step {number} of {steps}: loss {np.mean(losses[-100:]):.4f}", flush=True)


def quantised(model: Any, source: Iterator[tuple[Floats, Floats]]) -> bytes:
    """The network in int8, calibrated on patches; its input are the codes of density, one step a code."""
    shape = [1, TILE[0] // 2, TILE[1] // 2, 12]

    def calibration() -> Iterator[list[Floats]]:
        for _ in range(25):
            patches = next(source)[0][:8]
            for left, right in zip(patches[::2], patches[1::2], strict=True):
                tile = np.concatenate([left, right[:, : shape[2] - SIDE // 2]], axis=1)[np.newaxis].copy()
                tile[0, 0, 0, :2] = 255 / INPUT_STEP, 0  # the whole range of codes
                yield [tile]

    return in_int8(model, shape, calibration)


def in_int8(model: Any, shape: Sequence[int], calibration: Callable[[], Iterator[list[Floats]]]) -> bytes:
    """A Keras model as a LiteRT file with int8 layers, uint8 input (float32 in the model) and int8 output."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    infer = tf.function(lambda inputs: model(inputs, training=False))
    frozen = convert_variables_to_constants_v2(infer.get_concrete_function(tf.TensorSpec(shape, tf.float32)))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = calibration
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type, converter.inference_output_type = tf.uint8, tf.int8
    return bytes(converter.convert())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, help="write the network here, a .tflite file")
    parser.add_argument("--data", type=Path, required=True, help="folder with all sources")
    parser.add_argument("--without", choices=list(LEFT_OUT), help="leave a source out, to be judged on it")
    parser.add_argument("--steps", type=int, help=f"default: {RELEASED_STEPS}, and {STEPS} with a source left out")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    keras.utils.set_random_seed(0)
    left_out = LEFT_OUT.get(options.without, set())
    fields = [field for field in examples(options.data) if field.source not in left_out]
    source, model = batches(fields, np.random.default_rng(0)), network()
    fit(model, source, options.steps or (STEPS if options.without else RELEASED_STEPS))
    write_bytes(options.target, quantised(model, source))


if __name__ == "__main__":
    main()
