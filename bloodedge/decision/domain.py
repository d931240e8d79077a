"""Whether a network input looks like the cells that the network was trained on.

A network answers whatever it is shown. Its answer means nothing for an input that is far from the training cells in
figures of shape, colour and texture. The distance is the Mahalanobis distance of Lee et al. ("A simple unified
framework for detecting out-of-distribution samples", NeurIPS 2018), but of the input instead of a network's layer: it
needs no second output, and is the same for every engine and precision.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bloodedge.config import Strict
from bloodedge.imaging import Image, as_image, first_view

ACCEPTANCE = 0.95
"""Share of cells like the training cells that is accepted."""
CELLS = 600
"""Training cells that the domain is fitted to, each as it is, as a camera and as another bench would show it."""
SHRINKAGE = 0.2
"""Of the correlations towards none: what goes together in cells of one bench need not do so in those of another."""
FEWEST_INPUTS = 200
"""Fewer do not show how the figures are correlated."""
_RINGS = 4
_SCALES = 4
_BLUR_PX = 0.7
"""Standard deviation of the finest blur."""
_TINY = 1e-3
FIGURES = 41
SHAPES = 5
"""Figures of shape, which come first."""
MEANS, FINEST_TEXTURES, DETAIL = slice(5, 8), slice(29, 32), slice(32, 38)
"""Indices of some figures that ``describe`` gives; DETAIL is that of the second and third scale, where a camera's grain
is no longer seen."""
SHAPES_ACCEPTED, DETAIL_ACCEPTED = 0.98, 0.999
"""Shares of cells like the training cells whose shape, and whose detail, is inside."""

Floats = NDArray[np.float64]


class Region(Strict):
    """A bench's cells: as far apart among each other as the training cells, about a middle of their own."""

    mean: tuple[float, ...]
    limit: float
    cells: int


class ShapeLimits(Strict):
    """The shapes of training cells' masks, which no bench changes much."""

    mean: Annotated[tuple[float, ...], Field(min_length=SHAPES, max_length=SHAPES)]
    deviation: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=SHAPES, max_length=SHAPES)]
    whitening: Annotated[
        tuple[Annotated[tuple[float, ...], Field(min_length=SHAPES, max_length=SHAPES)], ...],
        Field(min_length=SHAPES, max_length=SHAPES),
    ]
    limit: float = Field(gt=0)
    """Largest distance of a shape inside the domain."""


class Domain(Strict):
    """The region of figures that training cells occupy."""

    mean: Annotated[tuple[float, ...], Field(min_length=FIGURES, max_length=FIGURES)]
    deviation: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=FIGURES, max_length=FIGURES)]
    whitening: Annotated[
        tuple[Annotated[tuple[float, ...], Field(min_length=FIGURES, max_length=FIGURES)], ...],
        Field(min_length=FIGURES, max_length=FIGURES),
    ]
    """Takes standardised figures, from the right, to ones without correlation."""
    limit: float = Field(gt=0)
    """Largest distance inside the domain; ACCEPTANCE of the cells that it was set on are inside."""
    cells: int
    """Inputs that the domain was fitted to, some of each cell."""
    shape: ShapeLimits | None = None
    """Limits of shape alone; None in bundles of before."""
    least_detail: float | None = None
    """Least mean of the logarithms of DETAIL: a cell with less is too blurred to be judged. None in bundles of before.
    """
    accepted: float | None = None
    """Share of held-out cells inside, 0..1."""
    benches: tuple[Region, ...] = ()
    """Of a fine-tuned bundle: where a bench's cells lie. What is inside one of them is inside the domain."""

    def holds(self, image: Image) -> bool:
        """Whether a network input, as ``describe`` takes it, is inside."""
        return self.distance(image) <= self.limit

    def distance(self, image: Image) -> float:
        """How far a network input, as ``describe`` takes it, is from the training cells; about 1 for one of them."""
        return float(self.distances(describe(image)[np.newaxis])[0])

    def distances(self, figures: Floats) -> Floats:
        """Distances (N,) of what ``describe`` gave for N inputs; from a bench's cells, as shares of its limit."""
        found = [self._from_training(figures)]
        found += [self.apart(figures, np.array(one.mean)) * (self.limit / one.limit) for one in self.benches]
        return np.asarray(np.min(found, axis=0), np.float64)

    def _from_training(self, figures: Floats) -> Floats:
        """Distances (N,) from the training cells: of all figures, or of what has a limit of its own if that is more."""
        found = self.apart(figures, self._spread.mean)
        if self.shape is not None and self._shapes is not None:
            found = np.maximum(found, self._shapes.distances(figures[:, :SHAPES]) * (self.limit / self.shape.limit))
        if self.least_detail is not None:
            lacking = self.least_detail - figures[:, DETAIL].mean(axis=1)
            found = np.maximum(found, np.where(lacking > 0, self.limit * (1 + lacking), 0))
        return found

    def apart(self, figures: Floats, middle: Floats) -> Floats:
        """Distances (N,) of figures from a middle (K,)."""
        return replace(self._spread, mean=middle).distances(figures)

    @cached_property
    def _spread(self) -> "_Spread":
        return _Spread.read(self)

    @cached_property
    def _shapes(self) -> "_Spread | None":
        return None if self.shape is None else _Spread.read(self.shape)


@dataclass(frozen=True, eq=False)
class _Spread:
    """Where figures lie and how far from each other: mean (K,), deviation (K,), and whitening (K, K) as in Domain."""

    mean: Floats
    deviation: Floats
    whitening: Floats

    @classmethod
    def of(cls, figures: Floats, shrinkage: float) -> "_Spread":
        """Of figures (N, K)."""
        mean, deviation = figures.mean(axis=0), np.maximum(figures.std(axis=0), _TINY)
        correlation = np.corrcoef(((figures - mean) / deviation).T)
        correlation = (1 - shrinkage) * np.nan_to_num(correlation) + shrinkage * np.eye(len(mean))
        values, vectors = np.linalg.eigh(correlation)
        return cls(mean, deviation, vectors / np.sqrt(values))

    @classmethod
    def read(cls, stored: "Domain | ShapeLimits") -> "_Spread":
        """What ``fields`` gave, from where it is stored."""
        return cls(np.array(stored.mean), np.array(stored.deviation), np.array(stored.whitening))

    def distances(self, figures: Floats) -> Floats:
        """(N,), about 1 for figures like those it is of."""
        standard = (figures - self.mean) / self.deviation
        return np.asarray(np.sqrt(np.square(standard @ self.whitening).mean(axis=1)), np.float64)

    def fields(self) -> dict[str, Any]:
        """As Domain and ShapeLimits store it."""
        whitening = tuple(tuple(row) for row in self.whitening)
        return {"mean": tuple(self.mean), "deviation": tuple(self.deviation), "whitening": whitening}


def fit_domain(
    training: NDArray[np.uint8], others: NDArray[np.uint8], elsewhere: NDArray[np.uint8] | None = None
) -> Domain | None:
    """The domain of N training inputs, as ``describe`` takes them; None for fewer than FEWEST_INPUTS.

    others: inputs of cells that the network was not fitted to, which the limits are set on; elsewhere: such cells at
    benches that differ as much as the network is to bear, which the limit of all figures is set on instead.
    """
    if len(training) < FEWEST_INPUTS or not len(others):
        return None
    figures, held = (np.array([describe(image) for image in images]) for images in (training, others))
    far = held if elsewhere is None else np.array([describe(image) for image in elsewhere])
    spread, shape = _Spread.of(figures, SHRINKAGE), _Spread.of(figures[:, :SHAPES], SHRINKAGE)
    shapes = float(np.quantile(shape.distances(held[:, :SHAPES]), SHAPES_ACCEPTED))
    return Domain(
        **spread.fields(),
        limit=float(np.quantile(spread.distances(far), ACCEPTANCE)),
        cells=len(training),
        shape=ShapeLimits(**shape.fields(), limit=shapes),
        least_detail=float(np.quantile(figures[:, DETAIL].mean(axis=1), 1 - DETAIL_ACCEPTED)),
    )


def describe(image: Image) -> Floats:
    """Figures of the shape, colour and texture of a network input uint8 (H, W, 3) RGB, 0 round the cell.

    Of several views (views, H, W, 3) the first is described. Where that is the physical one, as packaged recipes have
    it, a cell of a size that no training cell had is outside the domain; so is every cell of a camera whose scale is
    set far wrong, of which the network would get views that do not belong together. A canonical view shows no size.

    In this order: 5 of shape, each channel's mean, spread and skewness, the 3 correlations between channels, each
    channel's mean in 4 rings from the rim inwards, and its detail at 4 scales from the finest.
    """
    image = first_view(image)
    size = image.shape[0] * image.shape[1]
    red, green, blue = cv2.split(image)
    cell = as_image(cv2.threshold(cv2.max(cv2.max(red, green), blue), 0, 1, cv2.THRESH_BINARY)[1])
    x, y, width, height = cv2.boundingRect(cell)
    if width == 0:
        return np.zeros(FIGURES)
    cell = np.ascontiguousarray(cell[y : y + height, x : x + width])
    levels = image[y : y + height, x : x + width].astype(np.float32)
    return np.array([*_shape(cell, size), *_colours(levels, cell), *_rings(levels, cell), *_textures(levels, cell)])


def _colours(levels: NDArray[np.float32], cell: Image) -> list[float]:
    """Each channel's mean, spread and skewness, and the correlations between channels."""
    inside = cell > 0
    pixels = np.stack([channel[inside] for channel in cv2.split(levels)]) / np.float32(255)
    mean, spread = pixels.mean(axis=1), np.maximum(pixels.std(axis=1), _TINY)
    standard = (pixels - mean[:, np.newaxis]) / spread[:, np.newaxis]
    squares = standard * standard
    skewness = [float(square @ channel) / len(channel) for square, channel in zip(squares, standard, strict=True)]
    correlation = standard @ standard.T / standard.shape[1]
    together = [float(correlation[i, j]) for i, j in ((0, 1), (1, 2), (0, 2))]
    return [*map(float, mean), *map(float, spread), *skewness, *together]


def _shape(cell: Image, size: int) -> list[float]:
    """Filling of the input of ``size`` pixels, solidity, roundness, elongation and pieces of the mask."""
    contours, _ = cv2.findContours(cell, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return [0.0] * 5
    outline = max(contours, key=cv2.contourArea)
    area, length = max(cv2.contourArea(outline), 1.0), max(cv2.arcLength(outline, closed=True), 1.0)
    moments = cv2.moments(outline)
    difference, across = moments["mu20"] - moments["mu02"], moments["mu11"]
    whole = max(moments["mu20"] + moments["mu02"], _TINY)
    elongation = np.sqrt(difference**2 + 4 * across**2) / whole
    solidity = area / max(cv2.contourArea(cv2.convexHull(outline)), 1.0)
    return [np.log(area / size + _TINY), solidity, 4 * np.pi * area / length**2, elongation, area / cell.sum()]


def _rings(levels: NDArray[np.float32], cell: Image) -> list[float]:
    """Mean level of each channel from the rim inwards, in rings of equal depth."""
    framed = cv2.copyMakeBorder(cell, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    depth = cv2.distanceTransform(framed, cv2.DIST_L2, 3)[1:-1, 1:-1]
    ring = np.minimum(depth * (_RINGS / (depth.max() + _TINY)), _RINGS - 1).astype(np.uint8)
    ring[cell == 0] = _RINGS
    masks = ((ring == number).view(np.uint8) for number in range(_RINGS))
    return [level / 255 for mask in masks for level in cv2.mean(levels, mask=mask)[:3]]


def _textures(levels: NDArray[np.float32], cell: Image) -> list[float]:
    """Logarithm of each channel's detail between neighbouring scales, in the cell's inner part.

    The scales are those of a pyramid (Burt and Adelson, IEEE Trans. Commun. 31:532, 1983): each blur doubles the one
    before, and what is coarse is kept in fewer pixels.
    """
    inner = cv2.erode(cell, np.ones((7, 7), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    mask: Any = inner if cv2.countNonZero(inner) else cell
    fine: Any = levels
    found = []
    for scale in range(_SCALES):
        sigma = _BLUR_PX if scale == 0 else _BLUR_PX * np.sqrt(3)
        coarse = cv2.GaussianBlur(fine, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
        detail = cv2.subtract(fine, coarse)
        energy = cv2.mean(cv2.multiply(detail, detail), mask=mask)[:3]
        found += [0.5 * float(np.log(value + _TINY)) for value in energy]
        fine = coarse
        if scale:  # blurred enough to be kept in half as many pixels a side
            half = (coarse.shape[1] + 1) // 2, (coarse.shape[0] + 1) // 2
            fine = cv2.resize(coarse, half, interpolation=cv2.INTER_AREA)
            mask = cv2.resize(mask, half, interpolation=cv2.INTER_NEAREST)
    return found
