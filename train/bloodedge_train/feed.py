"""Batches for fitting: drawn by seed and epoch alone, so that a resumed run sees what an unbroken one would."""

import os
from collections.abc import Sequence
from typing import Any

import cv2
import keras
import numpy as np
from numpy.typing import NDArray

from bloodedge.imaging import as_image
from bloodedge_train.augment import augment
from bloodedge_train.recipe import AugmentSpec, FitSpec


class Feed(keras.utils.PyDataset):  # type: ignore[misc]
    """One epoch's training batches, augmented ahead on all cores while the network learns from the last one."""

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        groups: Sequence[str],
        spec: FitSpec,
        augmentation: AugmentSpec,
        *,
        seed: int,
        epoch: int,
    ) -> None:
        """images: uint8 (N, H, W, 3) network inputs; labels: (N,); groups: whose cell each is (see dataset.groups)."""
        cores = os.cpu_count() or 1
        super().__init__(workers=cores, use_multiprocessing=False, max_queue_size=4 * cores)
        self.images, self.labels, self.spec, self.augmentation = images, labels, spec, augmentation
        self.seed = [seed, epoch]
        self.order = draw(labels, groups, spec, np.random.default_rng([*self.seed, 0]))
        self.class_weights = _class_weights(labels[self.order]) if spec.class_weight else np.ones(2)

    def __len__(self) -> int:
        """Whole batches only: each other size would be compiled anew."""
        return len(self.order) // min(self.spec.batch, len(self.order))

    def __getitem__(self, number: int) -> tuple[Any, Any, Any]:
        """(images uint8 (B, H, W, 3), one-hot targets float32 (B, 2), weights float32 (B,)) of one batch."""
        batch = self.order[number * self.spec.batch : (number + 1) * self.spec.batch]
        rng = np.random.default_rng([*self.seed, 1, number])
        images = np.stack([augment(self.images[i], self.augmentation, rng) for i in batch])
        targets = np.eye(2, dtype=np.float32)[self.labels[batch]]
        weights = self.class_weights[self.labels[batch]].astype(np.float32)
        if self.augmentation.mixup:
            share = float(rng.beta(self.augmentation.mixup, self.augmentation.mixup))
            share = max(share, 1 - share)
            images = as_image(cv2.addWeighted(images, share, images[::-1], 1 - share, 0))
            targets = (share * targets + (1 - share) * targets[::-1]).astype(np.float32)
        return images, targets, weights


def draw(
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
