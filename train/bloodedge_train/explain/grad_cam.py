"""Where a network looks: Grad-CAM (Selvaraju et al., ICCV 2017) of cells cut out onto black, as pictures and as shares.

The map is that of the log-odds of a class, log p / (1 - p), which two logits' difference gives without rounding. On a
network whose feature map is pooled straight into the output layer it equals CAM (Zhou et al., CVPR 2016). A map is no
sharper than the layer's few places (5x5 of 160 px after a stride of 32), and each of them sees beyond itself: some
evidence next to a cell is the cell's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.errors import UsageError, did_you_mean

Floats = NDArray[np.float32]

FEATURES = "features"
"""The nested network whose output is the last feature map."""


@dataclass(frozen=True)
class Network:
    """A classifier cut in two at a feature map."""

    trunk: Any
    """Network inputs to feature maps (M, h, w, c): one of each cell, or, one after another, of each of its views."""
    head: Any
    """Feature maps to logits (N, 2), one row for each cell."""
    layer: str


def cut(model: Any, layer: str | None = None) -> Network:
    """Cut a zoo's network at the output of a layer inside its features (default: their last feature map).

    Raises UsageError when there is no such layer, or when it is not one that the whole network passes through.
    """
    import keras

    steps = model.operations
    names = [each.name for each in steps]
    if FEATURES not in names:
        raise UsageError(f'The network has no layers named "{FEATURES}"; train it again with: bloodedge train')
    place = names.index(FEATURES)
    head = steps[place + 1 :]
    if layer in {None, FEATURES}:
        trunk = keras.Model(model.input, head[0].input)
        return Network(trunk, _chain(trunk.output.shape[1:], [*head[:-1], _linear(head[-1])]), FEATURES)
    lower, upper = _parted(steps[place], str(layer))
    trunk = keras.Model(model.input, lower(steps[place - 1].output))
    return Network(trunk, _chain(trunk.output.shape[1:], [upper, *head[:-1], _linear(head[-1])]), str(layer))


def _parted(features: Any, layer: str) -> tuple[Any, Any]:
    """The features as two networks, up to ``layer`` and after it."""
    import keras

    maps = [each.name for each in features.layers[1:] if len(each.output.shape) == 4]
    if layer not in maps:
        raise UsageError(
            f'The network has no feature map "{layer}".{did_you_mean(layer, maps)} '
            f"The last ones are: {', '.join(maps[:-6:-1])}."
        )
    middle = features.get_layer(layer).output
    try:
        return keras.Model(features.input, middle), keras.Model(middle, features.output)
    except ValueError as error:  # another path leads past it
        raise UsageError(
            f'Part of the network leads past the layer "{layer}"; choose one where a block ends, '
            "such as an addition or the activation after it."
        ) from error


def _chain(shape: tuple[int, ...], layers: Sequence[Any]) -> Any:
    import keras

    start = x = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    return keras.Model(start, x)


def _linear(output: Any) -> Any:
    """The output layer without its softmax."""
    linear = type(output).from_config({**output.get_config(), "activation": "linear"})
    linear.build(output.input.shape)
    linear.set_weights(output.get_weights())
    return linear


def grad_cam(network: Network, images: NDArray[np.uint8], label: int | None = None) -> tuple[Floats, Floats]:
    """Maps float32 (N, h, w), 0 and up, and logits float32 (N, 2) of network inputs uint8 (N, H, W, 3) RGB.

    Of inputs (N, views, H, W, 3), each view has a map of its own: (N, views, h, w).
    label: the class whose evidence is mapped, 0 or 1; by default each cell's likelier one.
    """
    maps = np.asarray(network.trunk.predict_on_batch(images), np.float32)
    logits = np.asarray(network.head.predict_on_batch(maps), np.float32)
    labels = logits.argmax(axis=1) if label is None else np.full(len(images), label)
    weights = _gradients(network.head, maps, np.where(labels == 1, 1, -1).astype(np.float32)).mean(axis=(1, 2))
    evidence = np.einsum("mhwc,mc->mhw", maps, weights)
    return np.maximum(evidence, 0).reshape(*images.shape[:-3], *evidence.shape[1:]), logits


def _gradients(head: Any, maps: Floats, signs: Floats) -> Floats:
    """The log-odds' gradient with respect to each feature map, (M, h, w, c), on the back end that Keras runs on.

    signs: (N,) 1 for the log-odds of a blast, -1 for those of a normal cell.
    """
    import keras

    start = keras.ops.convert_to_tensor(maps)

    def log_odds(logits: Any) -> Any:
        return keras.ops.sum((logits[:, 1] - logits[:, 0]) * signs)

    gradients: Any
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        weights = [v.value for v in head.trainable_variables], [v.value for v in head.non_trainable_variables]
        gradients = jax.jit(jax.grad(lambda x: log_odds(head.stateless_call(*weights, x, training=False)[0])))(start)
    elif backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(start)
            total = log_odds(head(start, training=False))
        gradients = tape.gradient(total, start)
    else:
        import torch

        start.requires_grad_()
        signs = keras.ops.convert_to_tensor(signs)
        (gradients,) = torch.autograd.grad(log_odds(head(start, training=False)), start)
    return np.asarray(keras.ops.convert_to_numpy(gradients), np.float32)
