"""The features in which a head's coefficients are penalised: standardised, and shrunk where int8 blurs them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Features = NDArray[np.float32]

CLEAR_STEPS = 2.0
"""int8's steps to which a feature's spread is added, as to independent noise's."""


@dataclass(frozen=True)
class Int8Noise:
    """What int8 does to features."""

    changes: Features
    """(n, D) of some cells, their mean 0: what rounded activations change in the features."""
    steps: Floats
    """(D,), between int8's values of each feature."""


class Basis:
    """Features standardised, and shrunk along what int8's noise changes: an even penalty there is the one asked for."""

    def __init__(self, features: Features, noise: Int8Noise | None, strength: float) -> None:
        self.centre = features.mean(axis=0, dtype=np.float64)
        spread = features.std(axis=0, dtype=np.float64)
        self.unit = np.where(spread > 1e-5 * np.abs(self.centre) + 1e-8, spread, 1.0)
        self.directions, self.shrunk = np.zeros((0, len(spread)), np.float32), np.zeros(0, np.float32)
        if noise is not None:
            # A feature that hardly varies would get a coefficient beside which its own rounding drowns the others.
            self.unit = np.hypot(self.unit, CLEAR_STEPS * noise.steps)
            relative = (noise.changes / self.unit).astype(np.float32)
            _, values, directions = np.linalg.svd(relative, full_matrices=False)
            shrunk = 1 - 1 / np.sqrt(1 + strength * np.square(values) / len(relative))
            self.directions, self.shrunk = directions, shrunk.astype(np.float32)

    def of(self, features: Features) -> Features:
        """Features (N, D) in this basis."""
        return self._shrink(((features - self.centre.astype(np.float32)) / self.unit).astype(np.float32))

    def raw(self, coefficients: Floats) -> Floats:
        """Coefficients (D,) of features as they are."""
        return np.asarray(self._shrink(coefficients[np.newaxis])[0] / self.unit)

    def _shrink(self, rows: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(rows - (rows @ self.directions.T * self.shrunk) @ self.directions)
