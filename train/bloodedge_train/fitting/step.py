"""The training step, one compiled program: take cells from the accelerator's memory, change, classify, learn."""

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from bloodedge_train.fitting.augment import augment
from bloodedge_train.recipe import Recipe

TINY = 1e-7
ROUND = 2048


class Step(keras.Model):  # type: ignore[misc]
    """A network with its training cells beside it, uint8 in the accelerator's memory.

    Fed by ``feed.Feed``; what travels to the accelerator in each step is a few numbers for each cell.
    """

    def __init__(self, network: Any, images: NDArray[np.uint8], recipe: Recipe) -> None:
        """images: network inputs uint8 (N, *ImagingSpec.input_shape)."""
        super().__init__(dtype="float32")
        self.network = network
        self.recipe = recipe
        self.cells = keras.Variable(_rounded(images), dtype="uint8", trainable=False, name="cells")
        self.built = True

    def call(self, draws: Any, training: bool = False) -> Any:
        """Probabilities float32 (B, 2) of changed cells."""
        images = ops.take(self.cells, draws["index"], axis=0)
        return self.network(augment(images, draws, self.recipe.augment), training=training)

    def compute_loss(
        self,
        x: Any = None,  # noqa: ARG002 (Keras' own signature)
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        **_: Any,
    ) -> Any:
        """Weighted cross-entropy with smoothed labels, and the weights' penalties."""
        smoothing = self.recipe.fit.label_smoothing
        targets = y * (1 - smoothing) + smoothing / 2
        loss = -ops.sum(targets * ops.log(ops.clip(y_pred, TINY, 1.0)), axis=-1)
        return ops.mean(loss * sample_weight) + sum(self.network.losses, 0.0)


def _rounded(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Black cells, never drawn, added to the next multiple of ROUND: folds of nearly one size share one program."""
    if len(images) < ROUND:
        return images
    return np.concatenate([images, np.zeros((-len(images) % ROUND, *images.shape[1:]), np.uint8)])
