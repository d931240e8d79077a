"""Cues of a cell that are no proof of disease, and a logistic regression that weighs them."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike

from bloodedge.imaging import BACKGROUND_LEVEL, Cell


def area(cell: Cell) -> list[float]:
    """Pixels of the cell."""
    return [cell.area_px]


def brightness(cell: Cell) -> list[float]:
    """Mean of the cell's pixels over the three channels, 0..255, as ``bloodedge data audit`` has it."""
    return [float(np.mean(colour(cell)))]


def colour(cell: Cell) -> list[float]:
    """Mean blue, green and red of the cell, 0..255."""
    return list(cv2.mean(cell.bgr, cell.mask)[:3])


def silhouette(cell: Cell) -> list[float]:
    """The outline alone: size, how round, how smooth, how elongated, and Hu's moments (Hu, IRE Trans. 1962)."""
    contours, _ = cv2.findContours(cell.mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(contours, key=cv2.contourArea)
    perimeter, inside = cv2.arcLength(outline, closed=True), max(cv2.contourArea(outline), 1.0)
    hull = cv2.convexHull(outline)
    moments = cv2.moments(cell.mask, binaryImage=True)
    hu = np.log10(np.abs(cv2.HuMoments(moments)).ravel() + 1e-12)
    return [
        cell.area_px,
        perimeter,
        4 * np.pi * inside / max(perimeter, 1.0) ** 2,
        inside / max(cv2.contourArea(hull), 1.0),
        cv2.arcLength(hull, closed=True) / max(perimeter, 1.0),
        _eccentricity(moments),
        *hu.tolist(),
    ]


def _eccentricity(moments: dict[str, float]) -> float:
    """Of the ellipse with the mask's second moments, 0 (a circle) to 1."""
    spread = np.array([[moments["mu20"], moments["mu11"]], [moments["mu11"], moments["mu02"]]])
    minor, major = np.linalg.eigvalsh(spread)
    return float(np.sqrt(max(0.0, 1 - minor / max(major, 1e-12))))


def background(cell: Cell) -> list[float]:
    """What can be seen once the cell is blacked out: the rest of the crop, black where ``imaging`` calls it black."""
    return _around(cell, above=True)


def haze(cell: Cell) -> list[float]:
    """What is left below that level: compression smears a faint haze about a cell, whose extent shows its size."""
    return _around(cell, above=False)


def _around(cell: Cell, *, above: bool) -> list[float]:
    """Mean and spread of each channel, the brightest pixel and the share that is lit, outside the cell."""
    blue, green, red = cv2.split(cell.bgr)
    brightest = cv2.max(cv2.max(blue, green), red)
    how = cv2.THRESH_BINARY if above else cv2.THRESH_BINARY_INV
    _, chosen = cv2.threshold(brightest, BACKGROUND_LEVEL, 255, how)
    chosen = cv2.bitwise_and(chosen, cv2.bitwise_not(cell.mask))
    mean, spread = cv2.meanStdDev(cv2.bitwise_and(cell.bgr, cell.bgr, mask=chosen))
    left = cv2.bitwise_and(brightest, chosen)
    lit = cv2.countNonZero(left) / left.size
    return [*mean.ravel().tolist(), *spread.ravel().tolist(), float(left.max()), lit]


CUES: dict[str, Callable[[Cell], list[float]]] = {
    "area": area,
    "brightness": brightness,
    "mean colour": colour,
    "silhouette": silhouette,
    "background": background,
    "haze": haze,
}


def fit_logistic(cues: ArrayLike, labels: ArrayLike) -> Any:
    """scikit-learn's logistic regression on standardised cues, both classes weighing the same.

    cues: (N, K); labels: (N,) 0 or 1, both present.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    exact = LogisticRegression(class_weight="balanced", solver="newton-cholesky", tol=1e-8)
    return make_pipeline(StandardScaler(), exact).fit(np.asarray(cues, np.float64), labels)
