"""Blood cells as maps of stain amounts, drawn in micrometres so that they are the same cells at every scale.

Shapes and sizes follow the haematology textbooks (Bain, *Blood Cells*, 5th ed.; Rodak's *Hematology*, 5th ed.): red
cells 6 to 8.5 µm with a pale third, platelets 2 to 3 µm, lymphocytes 7 to 12 µm with clumped chromatin, lymphoblasts 10
to 18 µm with a high nucleus-to-cytoplasm ratio, finer chromatin, nucleoli and an often irregular nucleus.
"""

from dataclasses import dataclass, replace

import numpy as np

from bloodedge.simulation.optics import AZURE, EOSIN, HAEMOGLOBIN, Floats
from bloodedge.simulation.shapes import ANGLES, EDGE_UM, Shape, Sprite, noise, outline_of, polar
from bloodedge.simulation.spec import SubjectStyle

RED_CELL_UM = (6.0, 8.5)
PLATELET_UM = (2.0, 3.0)
WHITE_CELL_UM = {"normal": (7.0, 12.0), "blast": (10.0, 18.0)}
"""Smallest and largest diameter (of the circle of the same area)."""


def draw_diameter(rng: np.random.Generator, mean: float, spread: float, limits: tuple[float, float]) -> float:
    """A normally distributed diameter in µm, drawn again until it lies inside the limits."""
    while not limits[0] <= (diameter := rng.normal(mean, spread)) <= limits[1]:
        mean = float(np.clip(mean, *limits))
    return float(diameter)


def red_cell(rng: np.random.Generator, um_per_px: float, diameter_um: float) -> Sprite:
    """A biconcave disc: haemoglobin as thick as the cell, eosin bound to it."""
    outline = outline_of(rng, elongation=abs(rng.normal(0, 0.08)), ripple=0.014)
    shape = Shape.centred(outline, diameter_um / um_per_px)
    thickness = _biconcave(shape.radius_share, pallor=float(np.clip(rng.normal(0.95, 0.3), 0, 1.2)))
    thickness *= shape.edge(0.6 * EDGE_UM / um_per_px)
    content = rng.normal(1, 0.1)
    amounts = np.zeros((*thickness.shape, 3), np.float32)
    amounts[:, :, HAEMOGLOBIN] = 0.22 * content * thickness
    amounts[:, :, EOSIN] = 0.065 * content * thickness
    amounts[:, :, AZURE] = 0.01 * thickness
    return Sprite(amounts, shape.mask)


def platelet(rng: np.random.Generator, um_per_px: float, diameter_um: float) -> Sprite:
    """A ragged, granular, purple fragment, fading towards its edge."""
    outline = outline_of(rng, elongation=abs(rng.normal(0, 0.12)), ripple=0.045)
    shape = Shape.centred(outline, diameter_um / um_per_px)
    granules = 1 + 0.3 * noise(rng, shape.inside_px.shape, 0.45 / um_per_px)
    body = shape.edge(2 * EDGE_UM / um_per_px) * granules * (1.1 - 0.7 * shape.radius_share**2).clip(0.2, None)
    amounts = np.zeros((*body.shape, 3), np.float32)
    amounts[:, :, AZURE] = 0.22 * body
    amounts[:, :, EOSIN] = 0.25 * body
    return Sprite(amounts, shape.mask)


def _biconcave(radius_share: Floats, pallor: float) -> Floats:
    """Thickness of a red cell relative to its thickest ring (Evans and Fung, Microvasc Res 1972).

    pallor: 0 fills the dimple half (a thick or dried-in cell), 1 keeps the measured profile.
    """
    square = np.minimum(radius_share, 1) ** 2
    profile = np.sqrt(1 - 0.85 * square) * (0.81 + 7.83 * square - 4.39 * square**2) / 2.9
    return np.asarray(profile + (1 - pallor) * 0.55 * np.exp(-6 * square), np.float32)


@dataclass(frozen=True)
class _WhiteCell:
    """Features of one white cell."""

    diameter_um: float
    nucleus_share: float
    """Area of the nucleus relative to the cell's."""
    clump_um: float
    clump_depth: float
    """How much denser than average a clump of chromatin is."""
    indentation: float
    """Depth of the nucleus' notch relative to its radius; 0 is a round nucleus."""
    nucleoli: int
    azure: float
    """Amount of azure dye in the nucleus, and in the cytoplasm:"""
    cytoplasm: float


_IMMATURITY = {"normal": 0.2, "blast": 0.8}
"""0 is a textbook lymphocyte, 1 a textbook blast."""
_SPREAD = 0.13
"""Cells of one class differ, and so do one cell's features: a few of each class look like the other."""


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share


def _draw_white_cell(rng: np.random.Generator, label: str, style: SubjectStyle) -> _WhiteCell:
    immaturity = rng.normal(_IMMATURITY[label], _SPREAD)

    def looks() -> float:
        return float(np.clip(immaturity + rng.normal(0, _SPREAD), -0.2, 1.2))

    mean = _between(9.5, 11.4, immaturity) * style.cell_size
    return _WhiteCell(
        diameter_um=draw_diameter(rng, mean, 1.3, WHITE_CELL_UM[label]),
        nucleus_share=float(np.clip(_between(0.7, 0.83, looks()) + rng.normal(0, 0.04), 0.5, 0.92)),
        clump_um=_between(1.25, 0.6, looks()) * style.chromatin_grain,
        clump_depth=_between(0.3, 0.12, looks()),
        indentation=max(0.0, _between(-0.15, 0.3, looks()) + rng.normal(0, 0.1)),
        nucleoli=int(rng.binomial(3, np.clip(_between(0.0, 0.65, looks()), 0, 1))),
        azure=_between(0.44, 0.325, looks()) * float(np.exp(rng.normal(0, 0.15))),
        cytoplasm=_between(0.19, 0.24, looks()),
    )


def white_cell(rng: np.random.Generator, label: str, style: SubjectStyle, um_per_px: float) -> Sprite:
    """A lymphocyte (``normal``) or a lymphoblast (``blast``)."""
    cell = _draw_white_cell(rng, label, style)
    outline = outline_of(rng, elongation=abs(rng.normal(0, 0.05)), ripple=0.018)
    body = Shape.centred(outline, cell.diameter_um / um_per_px)
    nucleus = _nucleus_shape(rng, cell, outline, body, um_per_px)
    cytoplasm = _cytoplasm(rng, body, um_per_px) * (1 - 0.7 * nucleus.edge(EDGE_UM / um_per_px))
    chromatin, dyes = _chromatin(rng, cell, nucleus, um_per_px)
    amounts = np.zeros((*chromatin.shape, 3), np.float32)
    amounts[:, :, AZURE] = cell.cytoplasm * cytoplasm + cell.azure * chromatin
    amounts[:, :, EOSIN] = 0.45 * cell.cytoplasm * cytoplasm + cell.azure * dyes * chromatin
    return Sprite(amounts, body.mask)


def _nucleus_shape(rng: np.random.Generator, cell: _WhiteCell, outline: Floats, body: Shape, um_per_px: float) -> Shape:
    """The nucleus: follows the cell, off its centre as far as there is room, dented where the cell says so."""
    diameter_um = cell.diameter_um * np.sqrt(cell.nucleus_share)
    own = outline_of(rng, elongation=abs(rng.normal(0, 0.04)), ripple=0.015)
    table = (0.5 * outline + 0.5 * own) * _dent(rng, cell.indentation)
    room_px = 0.5 * (cell.diameter_um - diameter_um) / um_per_px
    angle, distance = rng.uniform(0, 2 * np.pi), room_px * rng.uniform(0.1, 0.8)
    offset = round(distance * np.cos(angle)), round(distance * np.sin(angle))
    nucleus = Shape.of(table, diameter_um / um_per_px, len(body.inside_px) // 2, offset)
    return replace(nucleus, inside_px=np.minimum(nucleus.inside_px, body.inside_px - np.float32(EDGE_UM / um_per_px)))


def _dent(rng: np.random.Generator, depth: float) -> Floats:
    """Radius factors float32 (ANGLES,) with one notch; 1 everywhere for depth 0."""
    angle = np.linspace(-np.pi, np.pi, ANGLES, endpoint=False)
    notch = 1 - min(depth, 0.55) * np.exp(-((angle / rng.uniform(0.25, 0.7)) ** 2))
    return np.roll(notch, rng.integers(ANGLES)).astype(np.float32)


def _cytoplasm(rng: np.random.Generator, body: Shape, um_per_px: float) -> Floats:
    """Basophilic cytoplasm: a little mottled, denser towards the membrane."""
    mottled = 1 + 0.12 * noise(rng, body.inside_px.shape, 0.8 / um_per_px)
    return np.asarray(body.edge(EDGE_UM / um_per_px) * mottled * (0.75 + 0.35 * body.radius_share**4), np.float32)


def _chromatin(rng: np.random.Generator, cell: _WhiteCell, nucleus: Shape, um_per_px: float) -> tuple[Floats, Floats]:
    """(density of the chromatin, share of eosin to azure dye in it), each float32 (n, n)."""
    shape = nucleus.inside_px.shape
    clumps = np.tanh(1.6 * noise(rng, shape, cell.clump_um / um_per_px))
    fine = noise(rng, shape, 0.4 / um_per_px)
    density = 1 + cell.clump_depth * clumps + 0.07 * fine
    density += 0.12 * np.exp(-((nucleus.inside_px * um_per_px / 0.35) ** 2))
    reddish = np.full(shape, 1.12, np.float32)
    for _ in range(cell.nucleoli):
        spot = _nucleolus(rng, nucleus, um_per_px)
        density *= 1 - 0.34 * spot
        reddish *= 1 - 0.3 * spot
    density *= nucleus.edge(EDGE_UM / um_per_px) * (1.06 - 0.18 * np.minimum(nucleus.radius_share, 1) ** 2)
    return np.maximum(density, 0).astype(np.float32), reddish


def _nucleolus(rng: np.random.Generator, nucleus: Shape, um_per_px: float) -> Floats:
    """Where one nucleolus lies, float32 (n, n), 0..1: a pale, bluish, round spot of 1 to 2.2 µm, not at the rim."""
    radius_px = rng.uniform(0.5, 1.1) / um_per_px
    angle, distance = rng.uniform(0, 2 * np.pi), nucleus.radius_px * rng.uniform(0.0, 0.6)
    half = len(nucleus.inside_px) // 2
    x = round(nucleus.offset[0] + distance * np.cos(angle))
    y = round(nucleus.offset[1] + distance * np.sin(angle))
    radius, _ = polar(half, (x, y))
    return np.asarray(np.exp(-((radius / np.float32(radius_px)) ** 4)), np.float32)
