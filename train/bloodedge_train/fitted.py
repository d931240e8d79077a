"""What fitting comes to: a network, and what it or its siblings say of cells that they were not fitted to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.data.dataset import CellFile, owners
from bloodedge.data.training_features import TrainingFeatures


def labels_of(cells: Sequence[CellFile]) -> NDArray[np.int64]:
    """(N,) 1 for a blast."""
    return np.array([cell.label for cell in cells], np.int64)


@dataclass(frozen=True)
class Scored:
    """Cells with what networks that were not fitted to them give."""

    cells: list[CellFile]
    outputs: NDArray[np.float32]
    """Softmax outputs (N, 2) before the temperature."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) 1 for a blast."""
        return labels_of(self.cells)

    @property
    def subjects(self) -> list[str]:
        """Whose cell each is."""
        return owners(self.cells)


@dataclass(frozen=True)
class Crossed:
    """Heads that judge a run that was fitted to everybody."""

    network: Any
    """A Keras network with a head for each fold, float32 (N, folds, 2)."""
    folds: list[list[str]]
    """Groups that each head was not fitted to."""


@dataclass(frozen=True)
class Fitted:
    """A Keras network, float32, and how it came to be."""

    network: Any
    scored: dict[str, Scored]
    """By part, the one that ``calibration_part`` names among them."""
    history: list[dict[str, float]]
    """A row for each epoch, or for each penalty of a head."""
    best: int
    """The row that was kept, from 1."""
    kept: str
    """The same in words."""
    crossed: Crossed | None = None
    """For a run that was fitted to everybody."""
    features: TrainingFeatures | None = None
    """For a head: what fine-tuning will know of the cells that it was fitted to."""
