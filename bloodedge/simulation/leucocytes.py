"""White cells other than lymphocytes and blasts: neutrophils, monocytes, eosinophils and basophils.

Sizes and looks follow the same textbooks as ``cells``: neutrophils 10 to 15 µm, with a band or 2 to 5 lobes on thin
filaments and fine lilac granules; eosinophils 11 to 16 µm, mostly of two lobes, packed with coarse orange granules;
basophils 10 to 14 µm, their nucleus under dark purple granules; monocytes 12 to 20 µm, with a kidney of lacy chromatin
in grey-blue cytoplasm with vacuoles.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from bloodedge.decision.kinds import Kind
from bloodedge.simulation.optics import AZURE, EOSIN, HAEMOGLOBIN, Floats
from bloodedge.simulation.shapes import EDGE_UM, Shape, Sprite, noise, outline_of
from bloodedge.simulation.spec import SubjectStyle

DIAMETER_UM = {
    Kind.NEUTROPHIL: (10.0, 15.0),
    Kind.MONOCYTE: (12.0, 20.0),
    Kind.EOSINOPHIL: (11.0, 16.0),
    Kind.BASOPHIL: (10.0, 14.0),
}
"""Smallest and largest diameter (of the circle of the same area)."""
_JOINT_UM = 0.25
"""Radius of the fillet where parts of a nucleus meet."""
BAND_SHARE = 0.08
"""Of neutrophils, in healthy blood."""


@dataclass(frozen=True)
class _Body:
    """A cell's outline in its picture: the shape, its scale and its radius."""

    shape: Shape
    um_per_px: float
    radius_um: float

    def positions(self) -> tuple[Floats, Floats]:
        """X and y of every pixel in µm from the middle, each float32 (n, n)."""
        half = len(self.shape.inside_px) // 2
        axis = np.arange(-half, half + 1, dtype=np.float32) * np.float32(self.um_per_px)
        across, down = np.meshgrid(axis, axis)
        return across, down

    def noise(self, rng: np.random.Generator, grain_um: float) -> Floats:
        """Smooth noise with features of that size."""
        return noise(rng, self.shape.inside_px.shape, grain_um / self.um_per_px)

    @property
    def cover(self) -> Floats:
        """1 in the cell, 0 outside."""
        return self.shape.edge(EDGE_UM / self.um_per_px)


def draw_stage(rng: np.random.Generator, kind: Kind) -> str | None:
    """``band`` or ``segmented`` for a neutrophil, None for other kinds."""
    if kind is not Kind.NEUTROPHIL:
        return None
    return "band" if rng.random() < BAND_SHARE else "segmented"


def leucocyte(
    rng: np.random.Generator, kind: Kind, style: SubjectStyle, um_per_px: float, stage: str | None = None
) -> Sprite:
    """A cell of one of the kinds of DIAMETER_UM."""
    low, high = DIAMETER_UM[kind]
    diameter_um = float(np.clip(rng.normal((low + high) / 2, (high - low) / 7) * style.cell_size, low, high))
    ripple = 0.03 if kind is Kind.MONOCYTE else 0.016
    outline = outline_of(rng, elongation=abs(rng.normal(0, 0.07)), ripple=ripple)
    body = _Body(Shape.centred(outline, diameter_um / um_per_px), um_per_px, diameter_um / 2)
    amounts = _PAINTED[kind](rng, body, style, stage)
    return Sprite(np.maximum(amounts, 0).astype(np.float32), body.shape.mask)


def _neutrophil(rng: np.random.Generator, body: _Body, style: SubjectStyle, stage: str | None) -> Floats:
    nucleus = _bent_band(rng, body) if stage == "band" else _lobes(rng, body, _number_of_lobes(rng), 0.36)
    granules = 1 + 0.35 * np.tanh(1.5 * body.noise(rng, 0.35)) + 0.15 * body.noise(rng, 1.5)
    amounts = _cytoplasm(body, nucleus, azure=0.055 * granules, eosin=0.12 * granules)
    return amounts + _chromatin(rng, body, nucleus, azure=0.55, clump_um=1.1 * style.chromatin_grain, depth=0.3)


def _monocyte(rng: np.random.Generator, body: _Body, style: SubjectStyle, _: str | None) -> Floats:
    nucleus = _kidney(rng, body)
    ground = np.asarray(1 + 0.16 * body.noise(rng, 0.5) + 0.1 * body.noise(rng, 2.0), np.float32)
    for _vacuole in range(rng.poisson(4)):
        ground *= 1 - np.float32(0.85) * _spot(rng, body, rng.uniform(0.25, 0.6))
    amounts = _cytoplasm(body, nucleus, azure=0.165 * ground, eosin=0.1 * ground)
    return amounts + _chromatin(rng, body, nucleus, azure=0.33, clump_um=0.8 * style.chromatin_grain, depth=0.26)


def _eosinophil(rng: np.random.Generator, body: _Body, style: SubjectStyle, _: str | None) -> Floats:
    nucleus = _lobes(rng, body, 2 if rng.random() < 0.8 else 3, 0.38)
    granules = 0.35 + 0.65 * _granules(rng, body, per_um2=1.5, radius_um=0.36)
    amounts = _cytoplasm(body, nucleus, azure=0.05 * granules, eosin=0.26 * granules)
    amounts[:, :, HAEMOGLOBIN] = amounts[:, :, EOSIN]  # bound eosin is more orange than dissolved
    return amounts + _chromatin(rng, body, nucleus, azure=0.5, clump_um=1.1 * style.chromatin_grain, depth=0.28)


def _basophil(rng: np.random.Generator, body: _Body, style: SubjectStyle, _: str | None) -> Floats:
    nucleus = _lobes(rng, body, int(rng.integers(2, 4)), 0.42)
    ground = 1 + 0.2 * body.noise(rng, 0.6)
    amounts = _cytoplasm(body, nucleus, azure=0.15 * ground, eosin=0.2 * ground)
    amounts += _chromatin(rng, body, nucleus, azure=0.34, clump_um=1.2 * style.chromatin_grain, depth=0.25)
    granules = _granules(rng, body, per_um2=rng.uniform(0.5, 1.1), radius_um=0.36) * body.cover
    amounts[:, :, AZURE] += 0.36 * granules
    amounts[:, :, EOSIN] += 0.42 * granules
    return amounts


Paint = Callable[[np.random.Generator, _Body, SubjectStyle, str | None], Floats]
_PAINTED: dict[Kind, Paint] = {
    Kind.NEUTROPHIL: _neutrophil,
    Kind.MONOCYTE: _monocyte,
    Kind.EOSINOPHIL: _eosinophil,
    Kind.BASOPHIL: _basophil,
}
"""Stain amounts float32 (n, n, 3) of each kind."""


def _number_of_lobes(rng: np.random.Generator) -> int:
    """Of a segmented neutrophil (Arneth's count in health)."""
    return int(rng.choice([2, 3, 4, 5], p=[0.25, 0.46, 0.23, 0.06]))


def _lobes(rng: np.random.Generator, body: _Body, number: int, size: float) -> Floats:
    """How far inside a nucleus of lobes a pixel lies, µm; size: radius of one of two lobes over the cell's."""
    radius = size * body.radius_um * (2.4 / (number + 0.4)) ** 0.4
    bend = 2 * np.pi * min(0.8, 0.3 * (number - 1) + rng.uniform(0, 0.12))
    angles = rng.uniform(0, 2 * np.pi) + np.linspace(0, bend, number) + rng.normal(0, 0.12, number)
    ring = (0.4 + 0.03 * number) * body.radius_um
    spots = [(ring * np.cos(a), ring * np.sin(a)) for a in angles]
    sizes = radius * rng.uniform(0.82, 1.12, number)
    parts = []
    for (x, y), lobe, angle in zip(spots, sizes, angles, strict=True):
        along = 0.45 * lobe * np.array((-np.sin(angle), np.cos(angle)))
        parts.append(_capsule(body, (x - along[0], y - along[1]), (x + along[0], y + along[1]), 0.85 * lobe))
    for start, end in pairwise(spots):
        parts.append(_capsule(body, start, end, rng.uniform(0.22, 0.5)))
    return _joined(rng, body, parts)


def _bent_band(rng: np.random.Generator, body: _Body) -> Floats:
    """The same of a C- or S-shaped nucleus of even width."""
    radius = rng.uniform(0.26, 0.31) * body.radius_um
    ring = 0.5 * body.radius_um
    bend, turn = rng.uniform(3.2, 4.6), rng.uniform(0, 2 * np.pi)
    points = [(ring * np.cos(a), ring * np.sin(a)) for a in turn + np.linspace(0, bend, 9)]
    return _joined(rng, body, [_capsule(body, a, b, radius) for a, b in pairwise(points)])


def _kidney(rng: np.random.Generator, body: _Body) -> Floats:
    """The same of a monocyte's nucleus: a thick arc, from round with a dent to a horseshoe."""
    bend = rng.uniform(1.6, 3.4)
    radius = (0.6 - 0.06 * bend) * body.radius_um
    ring, turn = 0.32 * body.radius_um, rng.uniform(0, 2 * np.pi)
    points = [(ring * np.cos(a), ring * np.sin(a)) for a in turn + np.linspace(-bend / 2, bend / 2, 7)]
    return _joined(rng, body, [_capsule(body, a, b, radius) for a, b in pairwise(points)])


def _capsule(body: _Body, start: tuple[float, float], end: tuple[float, float], radius_um: float) -> Floats:
    """How far inside a thick line a pixel lies, µm; negative outside."""
    across, down = body.positions()
    along = np.subtract(end, start)
    length = max(float(along @ along), 1e-9)
    share = np.clip(((across - start[0]) * along[0] + (down - start[1]) * along[1]) / length, 0, 1)
    away = np.hypot(across - start[0] - share * along[0], down - start[1] - share * along[1])
    return np.asarray(radius_um - away, np.float32)


def _joined(rng: np.random.Generator, body: _Body, parts: list[Floats]) -> Floats:
    """The union of parts with rounded joints and an uneven edge, kept inside the cell."""
    union = _JOINT_UM * np.logaddexp.reduce(np.stack(parts) / _JOINT_UM, axis=0)
    uneven = union + 0.12 * body.noise(rng, 1.3)
    inside_um = body.shape.inside_px * body.um_per_px
    return np.asarray(np.minimum(uneven, inside_um - 0.3), np.float32)


def _spot(rng: np.random.Generator, body: _Body, radius_um: float) -> Floats:
    """A round spot somewhere in the cell, 0..1."""
    angle, distance = rng.uniform(0, 2 * np.pi), body.radius_um * np.sqrt(rng.uniform(0.1, 0.8))
    across, down = body.positions()
    away = np.hypot(across - distance * np.cos(angle), down - distance * np.sin(angle))
    return np.asarray(np.exp(-((away / radius_um) ** 4)), np.float32)


def _granules(rng: np.random.Generator, body: _Body, per_um2: float, radius_um: float) -> Floats:
    """Round granules all over the picture, 0..1."""
    side = len(body.shape.inside_px)
    canvas = np.zeros((side, side), np.uint8)
    for _ in range(rng.poisson(per_um2 * (side * body.um_per_px) ** 2)):
        x, y = rng.integers(0, 16 * side, 2)
        radius = round(16 * radius_um * rng.uniform(0.7, 1.2) / body.um_per_px)
        cv2.circle(canvas, (int(x), int(y)), radius, int(rng.integers(150, 256)), cv2.FILLED, cv2.LINE_AA, shift=4)
    soft = cv2.GaussianBlur(canvas, (0, 0), max(0.3, 0.1 / body.um_per_px))
    return np.asarray(soft, np.float32) / np.float32(255)


def _in_nucleus(body: _Body, nucleus: Floats) -> Floats:
    """1 in the nucleus, 0 outside, a ramp across its edge."""
    return np.asarray(np.clip(nucleus / max(EDGE_UM, body.um_per_px) + 0.5, 0, 1), np.float32)


def _cytoplasm(body: _Body, nucleus: Floats, azure: Floats, eosin: Floats) -> Floats:
    """Stain of the cell but its nucleus, a little thicker towards the middle."""
    cover = body.cover * (1 - 0.8 * _in_nucleus(body, nucleus)) * (1.1 - 0.25 * body.shape.radius_share**2).clip(0.5)
    amounts = np.zeros((*cover.shape, 3), np.float32)
    amounts[:, :, AZURE], amounts[:, :, EOSIN] = azure * cover, eosin * cover
    return amounts


def _chromatin(
    rng: np.random.Generator, body: _Body, nucleus: Floats, azure: float, clump_um: float, depth: float
) -> Floats:
    """Stain of the nucleus: clumps of chromatin, denser at its edge."""
    density = 1 + depth * np.tanh(1.6 * body.noise(rng, clump_um)) + 0.07 * body.noise(rng, 0.4)
    density += 0.12 * np.exp(-((nucleus / 0.35) ** 2))
    density *= _in_nucleus(body, nucleus) * float(np.exp(rng.normal(0, 0.1)))
    amounts = np.zeros((*density.shape, 3), np.float32)
    amounts[:, :, AZURE], amounts[:, :, EOSIN] = azure * density, 1.12 * azure * density
    return amounts
