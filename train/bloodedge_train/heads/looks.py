"""Ways of looking at a cell: as it is, mirrored, and randomly changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bloodedge_train.fitting.augment import Draws, augment, draw
from bloodedge_train.recipe import AugmentSpec

Images = NDArray[np.uint8]

BLOCK = 32
"""Cells changed at a time."""


@dataclass(frozen=True)
class Mirrored:
    """The cell mirrored along the image's axes."""

    axis: Literal["none", "h", "v", "hv"] = "none"

    @property
    def key(self) -> str:
        """Its part of a cache's key."""
        return self.axis

    def __call__(self, images: Images, digests: Sequence[str]) -> Images:  # noqa: ARG002 (as Drawn)
        """images: (..., H, W, 3)."""
        axes = {"none": (), "h": (-2,), "v": (-3,), "hv": (-3, -2)}[self.axis]
        return np.ascontiguousarray(np.flip(images, axes)) if axes else images


@dataclass(frozen=True)
class Drawn:
    """The cell with the random changes of a recipe, the ``number``-th ones of a seed."""

    spec: AugmentSpec
    seed: int
    number: int

    @property
    def key(self) -> str:
        """Its part of a cache's key."""
        return f"{self.spec.model_dump_json()} {self.seed} {self.number}"

    def __call__(self, images: Images, digests: Sequence[str]) -> Images:
        """images: (N, H, W, 3) or (N, V, H, W, 3), every view changed alike; digests: of the pictures (N,).

        What is drawn for a cell depends on its picture alone, not on the cells beside it.
        """
        changed = [
            self._changed(images[start : start + BLOCK], digests[start : start + BLOCK])
            for start in range(0, len(images), BLOCK)
        ]
        return np.concatenate(changed) if changed else images

    def _changed(self, images: Images, digests: Sequence[str]) -> Images:
        import keras

        padding, draws = -len(images) % BLOCK, self._draws(digests, images.shape[-2])
        padded = {name: np.concatenate([values, values[:1].repeat(padding, 0)]) for name, values in draws.items()}
        cells = np.concatenate([images, images[:1].repeat(padding, 0)])
        changed = keras.ops.convert_to_numpy(augment(keras.ops.convert_to_tensor(cells), padded, self.spec))
        return np.asarray(changed, np.uint8)[: len(images)]

    def _draws(self, digests: Sequence[str], size_px: int) -> Draws:
        seeds = ([self.seed, self.number, int(digest[:16], 16)] for digest in digests)
        each = [draw(self.spec, 1, size_px, np.random.default_rng(seed)) for seed in seeds]
        return {name: np.concatenate([one[name] for one in each]) for name in each[0]}


Look = Mirrored | Drawn

PLAIN = Mirrored()
MIRRORED = (PLAIN, Mirrored("h"), Mirrored("v"), Mirrored("hv"))


def drawn(spec: AugmentSpec, draws: int, seed: int) -> tuple[Drawn, ...]:
    """``draws`` random changes; pairs of cells are not blended."""
    alone = spec.model_copy(update={"mixup": 0.0})
    return tuple(Drawn(alone, seed, number) for number in range(draws))
