"""Fields of a simulated blood smear, with the truth about every cell in them."""

from dataclasses import dataclass

import cv2
import numpy as np

from bloodedge.decision.kinds import OTHER, Kind
from bloodedge.imaging import Cell, Image
from bloodedge.simulation import cells as draw
from bloodedge.simulation.leucocytes import draw_stage, leucocyte
from bloodedge.simulation.optics import Floats, captured, defocused, illumination, transmittance
from bloodedge.simulation.shapes import Sprite
from bloodedge.simulation.spec import FieldSpec

Box = tuple[int, int, int, int]
"""x, y, width, height in pixels."""

_LAYOUT, _LIGHT, _SENSOR = 1, 2, 3
"""Streams of random numbers, so that the light does not depend on how many cells were drawn."""

_WHITE_CLOSENESS = 0.96
"""White cells touch their neighbours and are pressed in a little; they do not lie over each other."""
_TRIES = 40


@dataclass(frozen=True)
class TrueCell:
    """A white cell of a field as it truly is.

    label: "blast", "normal", or "other" for a kind that is neither; mask: uint8 (h, w), 255 on the cell, of the box's
    size; cut_by_border: the frame's edge hides a part of the cell.
    """

    label: str
    box: Box
    mask: Image
    cut_by_border: bool
    kind: Kind = Kind.LYMPHOCYTE
    """Of blasts too, as the kind network is to call them."""
    stage: str | None = None
    """``band`` or ``segmented`` of a neutrophil."""

    def crop(self, field: "Field") -> Cell:
        """The cell as a perfect finder would cut it out of its field."""
        x, y, width, height = self.box
        return Cell(field.bgr[y : y + height, x : x + width].copy(), self.mask, field.um_per_px)


@dataclass(frozen=True)
class Field:
    """A rendered frame and its truth.

    bgr: uint8 (H, W, 3); cells: the white cells; red_cells, platelets: boxes, clipped to the frame.
    """

    bgr: Image
    um_per_px: float
    cells: tuple[TrueCell, ...]
    red_cells: tuple[Box, ...] = ()
    platelets: tuple[Box, ...] = ()


def render_field(seed: int, spec: FieldSpec | None = None) -> Field:
    """The field number ``seed``: the same bytes each time, and on another kind of processor within one grey level."""
    spec = spec or FieldSpec()
    amounts, white, red, platelets = _lay_out(np.random.default_rng([seed, _LAYOUT]), spec)
    light = illumination(np.random.default_rng([seed, _LIGHT]), spec)
    light *= transmittance(amounts, spec.style, spec.stain_strength)
    light = defocused(light, spec.defocus_um / spec.um_per_px)
    bgr = captured(np.random.default_rng([seed, _SENSOR]), light, spec.sensor_noise)
    return Field(bgr, spec.um_per_px, tuple(white), tuple(red), tuple(platelets))


def _lay_out(rng: np.random.Generator, spec: FieldSpec) -> tuple[Floats, list[TrueCell], list[Box], list[Box]]:
    """Stain amounts float32 (height, width, 3) of the whole field, and what lies in it."""
    amounts = np.zeros((spec.height, spec.width, 3), np.float32)
    scale = spec.um_per_px
    area = spec.width * spec.height * scale**2 / 1000
    room = Room(rng, spec.width, spec.height)

    white = []
    for _ in range(rng.integers(spec.white_cells[0], spec.white_cells[1] + 1)):
        label, kind, stage, sprite = _white_cell(rng, spec)
        spot = room.find(equivalent_radius(sprite.mask), closeness=_WHITE_CLOSENESS, firm=True)
        if spot is not None and (visible := _visible(sprite, spot, amounts)) is not None:
            white.append(TrueCell(label, *visible, kind, stage))

    red = []
    for _ in range(rng.poisson(area * spec.red_cells_per_1000_um2)):
        diameter = draw.draw_diameter(rng, 7.4 * spec.style.red_cell_size, 0.4, draw.RED_CELL_UM)
        spot = room.find(diameter / 2 / scale, closeness=1 - spec.overlap, beyond=1.0)
        if spot is not None and (visible := _visible(draw.red_cell(rng, scale, diameter), spot, amounts)) is not None:
            red.append(visible[0])

    platelets = []
    for _ in range(rng.poisson(area * spec.platelets_per_1000_um2)):
        diameter = rng.uniform(*draw.PLATELET_UM)
        spot = room.find(diameter / 2 / scale, closeness=_WHITE_CLOSENESS)
        if spot is not None and (visible := _visible(draw.platelet(rng, scale, diameter), spot, amounts)) is not None:
            platelets.append(visible[0])
    return amounts, white, red, platelets


def _white_cell(rng: np.random.Generator, spec: FieldSpec) -> tuple[str, Kind, str | None, Sprite]:
    """(label, kind, stage, drawing) of a white cell."""
    kind = _other_kind(rng, spec) if spec.other_kinds else None
    if kind is not None:
        stage = draw_stage(rng, kind)
        return OTHER, kind, stage, leucocyte(rng, kind, spec.style, spec.um_per_px, stage)
    label = "blast" if rng.random() < spec.blast_share else "normal"
    return label, Kind.LYMPHOCYTE, None, draw.white_cell(rng, label, spec.style, spec.um_per_px)


def _other_kind(rng: np.random.Generator, spec: FieldSpec) -> Kind | None:
    """A kind by the shares; None for a lymphocyte or blast."""
    drawn = rng.random()
    for kind, share in spec.other_kinds.items():
        if drawn < share:
            return kind
        drawn -= share
    return None


def _visible(sprite: Sprite, spot: tuple[int, int], amounts: Floats) -> tuple[Box, Image, bool] | None:
    """Add a sprite centred at ``spot`` to the amounts; (box, mask in it, cut by the border), None when out of sight."""
    height, width = amounts.shape[:2]
    half = len(sprite.mask) // 2
    left, top = spot[0] - half, spot[1] - half
    rows = slice(max(0, -top), min(len(sprite.mask), height - top))
    columns = slice(max(0, -left), min(len(sprite.mask), width - left))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return None
    amounts[top + rows.start : top + rows.stop, left + columns.start : left + columns.stop] += sprite.amounts[
        rows, columns
    ]
    mask = sprite.mask[rows, columns]
    x, y, box_width, box_height = cv2.boundingRect(mask)
    if box_width == 0:
        return None
    cut = cv2.countNonZero(mask) < cv2.countNonZero(sprite.mask)
    box = left + columns.start + x, top + rows.start + y, box_width, box_height
    return box, mask[y : y + box_height, x : x + box_width].copy(), cut


def equivalent_radius(mask: Image) -> float:
    """Radius in pixels of the circle with the mask's area."""
    return float(np.sqrt(cv2.countNonZero(mask) / np.pi))


class Room:
    """Finds places for cells, taken as discs, in a field that fills up."""

    def __init__(self, rng: np.random.Generator, width: int, height: int) -> None:
        self.rng, self.width, self.height = rng, width, height
        self.discs = np.zeros((0, 4))
        """x, y, radius, and the least closeness that each disc allows."""

    def find(
        self, radius: float, closeness: float, *, beyond: float = 0.0, firm: bool = False
    ) -> tuple[int, int] | None:
        """A random free spot (x, y) for a disc, which is then taken; None after many tries.

        closeness: least distance to another disc relative to the distance at which they touch. beyond: how many radii
        the centre may lie outside the frame. firm: later discs come no closer than cells touch, whatever they ask.
        """
        reach = beyond * radius
        for _ in range(_TRIES):
            x = self.rng.uniform(-reach, self.width + reach)
            y = self.rng.uniform(-reach, self.height + reach)
            touching = self.discs[:, 2] + radius
            distance = np.hypot(self.discs[:, 0] - x, self.discs[:, 1] - y)
            if np.all(distance >= np.maximum(closeness, self.discs[:, 3]) * touching):
                self.discs = np.vstack([self.discs, (x, y, radius, _WHITE_CLOSENESS if firm else 0.0)])
                return round(x), round(y)
        return None
