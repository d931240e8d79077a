"""The input of each training step: which cells, changed how, with which targets; drawn by seed, epoch and batch alone.

So a resumed run sees what an unbroken one would. The cells themselves stay where the network is (see ``step``).
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from bloodedge_train.fitting.augment import draw
from bloodedge_train.recipe import FitSpec, Recipe


class Feed(keras.utils.PyDataset):  # type: ignore[misc]
    """One epoch's batches."""

    def __init__(
        self,
        labels: NDArray[np.int64],
        groups: Sequence[str],
        recipe: Recipe,
        *,
        seed: int,
        epoch: int,
    ) -> None:
        """labels: (N,); groups: whose cell each is (see dataset.groups)."""
        super().__init__(workers=1, use_multiprocessing=False)
        self.labels, self.recipe, self.spec = labels, recipe, recipe.fit
        self.epoch, self.seed = epoch, [seed, epoch]
        self.order = order(labels, groups, self.spec, np.random.default_rng([*self.seed, 0]))
        self.class_weights = np.asarray(self.spec.costs)
        if self.spec.class_weight:
            self.class_weights = self.class_weights * _class_weights(labels[self.order])

    def __len__(self) -> int:
        """Whole batches only: every other size would be compiled again."""
        return len(self.order) // min(self.spec.batch, len(self.order))

    def __getitem__(self, number: int) -> tuple[dict[str, Any], Any, Any]:
        """One batch: draws, with the cells' index int32 (B,); one-hot targets float32 (B, 2); weights float32 (B,)."""
        batch = self.order[number * self.spec.batch : (number + 1) * self.spec.batch]
        rng = np.random.default_rng([*self.seed, 1, number])
        draws: dict[str, Any] = dict(draw(self.recipe.augment, len(batch), self.recipe.imaging.size_px, rng))
        draws["index"] = batch.astype(np.int32)
        targets = np.eye(2, dtype=np.float32)[self.labels[batch]]
        weights = self.class_weights[self.labels[batch]].astype(np.float32)
        if self.recipe.augment.mixup:
            share = draws["share"][:, None]
            targets = share * targets + (1 - share) * targets[::-1]
        return draws, targets, weights


def order(
    labels: NDArray[np.int64], groups: Sequence[str], spec: FitSpec, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Indices of the cells that one epoch shows, in order."""
    count = spec.epoch_cells or len(labels)
    if spec.sampling == "natural":
        rounds = -(-count // len(labels))
        return np.concatenate([rng.permutation(len(labels)) for _ in range(rounds)])[:count]
    weight = np.empty(len(labels))
    names, owner = np.unique(np.asarray(groups), return_inverse=True)
    for label in (0, 1):
        members = labels == label
        if spec.sampling == "class_balanced":
            weight[members] = 1 / members.sum()
        else:
            cells = np.bincount(owner[members], minlength=len(names))
            per_cell = 1 / np.sqrt(cells[owner[members]])
            weight[members] = per_cell / per_cell.sum()
    return rng.choice(len(labels), size=count, p=weight / weight.sum())


def _class_weights(shown: NDArray[np.int64]) -> NDArray[np.float64]:
    counts = np.bincount(shown, minlength=2)
    return np.asarray(len(shown) / (2 * np.maximum(counts, 1)), np.float64)
