"""The features in which a head's coefficients are penalised: standardised, and shrunk along what noise changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Features = NDArray[np.float32]

CLEAR_STEPS = 2.0
"""int8's steps to which a feature's spread is added, as to independent noise's."""
INT8_LEVELS = 255
SMALLEST = 1e-6
"""Of the largest variance of changes: directions of less are left alone."""


@dataclass(frozen=True)
class Noise:
    """What changes in the features of a cell that stays the same one."""

    changes: Features
    """(n, D) of some cells."""
    weight: float
    """Of the mean square that it adds to the log-odds, relative to the penalty's."""


def int8_noise(exact: Features, rounded: Features, weight: float) -> Noise:
    """What int8 changes in features (n, D), less the mean, which conversion corrects."""
    changes = rounded - exact
    return Noise(np.asarray(changes - changes.mean(axis=0), np.float32), weight)


class Basis:
    """Features standardised, and shrunk along what noise changes: an even penalty there is the one asked for."""

    def __init__(self, features: Features, noises: Sequence[Noise] = (), steps: Floats | None = None) -> None:
        """features: (N, D); steps: between int8's values of each (D,), None where a head need not bear int8."""
        self.centre = features.mean(axis=0, dtype=np.float64)
        spread = features.std(axis=0, dtype=np.float64)
        self.unit = np.where(spread > 1e-5 * np.abs(self.centre) + 1e-8, spread, 1.0)
        if steps is not None:
            # A feature that hardly varies would get a coefficient beside which its own rounding drowns the others.
            self.unit = np.hypot(self.unit, CLEAR_STEPS * steps)
        rows = [noise.changes * np.sqrt(noise.weight / len(noise.changes)) / self.unit for noise in noises]
        self.directions, self.shrunk = _shrinking(np.concatenate([np.zeros((0, len(spread))), *rows]))

    def of(self, features: Features) -> Features:
        """Features (N, D) in this basis."""
        return self._shrink(((features - self.centre.astype(np.float32)) / self.unit).astype(np.float32))

    def raw(self, coefficients: Floats) -> Floats:
        """Coefficients (D,) of features as they are."""
        return np.asarray(self._shrink(coefficients[np.newaxis])[0] / self.unit)

    def _shrink(self, rows: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(rows - (rows @ self.directions.T * self.shrunk) @ self.directions)


def _shrinking(changes: Floats) -> tuple[Features, Features]:
    """Directions (k, D) of weighted changes (n, D), each 1 long, and by what share (k,) of itself each is shrunk."""
    if not changes.any():
        return np.zeros((0, changes.shape[1]), np.float32), np.zeros(0, np.float32)
    variances, vectors = np.linalg.eigh(changes @ changes.T)  # of few cells: far cheaper than of many features
    kept = variances > SMALLEST * variances[-1]
    directions = (vectors[:, kept] / np.sqrt(variances[kept])).T @ changes
    shrunk = 1 - 1 / np.sqrt(1 + variances[kept])
    return directions.astype(np.float32), shrunk.astype(np.float32)


def int8_steps(features: Features, widths: Sequence[int]) -> Floats:
    """(D,) between int8's values of features (N, D), where those of a depth share one scale; widths: (depths,)."""
    ranges = [float(np.ptp(part)) for part in np.split(features, np.cumsum(widths)[:-1], axis=1)]
    return np.repeat(np.array(ranges) / INT8_LEVELS, widths)
