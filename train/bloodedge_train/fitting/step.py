"""The training step, one compiled program: cells taken from where they lie, changed, classified, and learnt from."""

from collections.abc import Sequence
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

    def __init__(self, network: Any, images: NDArray[np.uint8], recipe: Recipe, teachers: Sequence[Any] = ()) -> None:
        """images: uint8 (N, H, W, 3) network inputs; teachers: networks that the student's targets come from."""
        super().__init__(dtype="float32")
        self.network = network
        self.recipe = recipe
        self.teachers = list(teachers)
        for teacher in self.teachers:
            teacher.trainable = False
        self.cells = keras.Variable(_rounded(images), dtype="uint8", trainable=False, name="cells")
        self.built = True

    def call(self, draws: Any, training: bool = False) -> Any:
        """Probabilities float32 (B, 2) of changed cells: "said", and "taught" where there are teachers."""
        images = ops.take(self.cells, draws["index"], axis=0)
        images = augment(images, draws, self.recipe.augment, density=self.recipe.imaging.colour == "density")
        said = {"said": self.network(images, training=training)}
        if not self.teachers:
            return said
        taught = [teacher(_sized(images, teacher.input_shape[1]), training=False) for teacher in self.teachers]
        return said | {"taught": ops.stop_gradient(sum(taught[1:], taught[0]) / len(taught))}

    def compute_loss(
        self,
        x: Any = None,  # noqa: ARG002 (Keras' own signature)
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        **_: Any,
    ) -> Any:
        """Weighted cross-entropy with smoothed labels, mixed with that to the teachers, and the weights' penalties."""
        spec, distil = self.recipe.fit, self.recipe.distil
        said = ops.log(ops.clip(y_pred["said"], TINY, 1.0))
        targets = y * (1 - spec.label_smoothing) + spec.label_smoothing / 2
        loss = -ops.sum(targets * said, axis=-1)
        if self.teachers:
            warm = distil.temperature
            taught = ops.softmax(ops.log(ops.clip(y_pred["taught"], TINY, 1.0)) / warm)
            soft = -ops.sum(taught * ops.log_softmax(said / warm), axis=-1) * warm**2
            loss = (1 - distil.weight) * loss + distil.weight * soft
        return ops.mean(loss * sample_weight) + sum(self.network.losses, 0.0)


def _rounded(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Black cells, never drawn, added to the next multiple of ROUND: folds of nearly one size share one program."""
    if len(images) < ROUND:
        return images
    return np.concatenate([images, np.zeros((-len(images) % ROUND, *images.shape[1:]), np.uint8)])


def _sized(images: Any, size_px: int) -> Any:
    if images.shape[1] == size_px:
        return images
    resized = ops.image.resize(ops.cast(images, "float32"), (size_px, size_px), interpolation="bilinear")
    return ops.cast(ops.round(resized), "uint8")
