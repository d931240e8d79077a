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
    """Cut a zoo's network at the output of a layer inside its features.

    By default that is their last feature map, or, where a head reads maps at several depths, the lowest of them, from
    which the others are computed. Raises UsageError when there is no such layer, or when it is not one that the whole
    network passes through.
    """
    import keras

    steps = model.operations
    names = [each.name for each in steps]
    if FEATURES not in names:
        raise UsageError(f'The network has no layers named "{FEATURES}"; train it again with: bloodedge train')
    place = names.index(FEATURES)
    features, maps = steps[place], _made_by(steps[place], steps[place + 1 :])
    rest = keras.Model(maps if len(maps) > 1 else maps[0], _logits(steps[-1]))
    if layer in {None, FEATURES}:
        if len(maps) == 1:
            return Network(keras.Model(model.input, maps[0]), rest, FEATURES)
        layer = _maker(features.outputs[0]).name
    lower, upper = _parted(features, str(layer))
    trunk = keras.Model(model.input, lower(steps[place - 1].output))
    return Network(trunk, keras.Model(upper.input, rest(upper.output)), str(layer))


def _maker(tensor: Any) -> Any:
    """The operation that gives a symbolic tensor."""
    return tensor._keras_history.operation


def _made_by(operation: Any, later: Sequence[Any]) -> list[Any]:
    """The outputs of ``operation``, in order, that ``later`` operations read."""
    import keras

    read = [tensor for each in later for tensor in keras.tree.flatten(each.input) if _maker(tensor) is operation]
    return sorted({id(tensor): tensor for tensor in read}.values(), key=lambda one: one._keras_history.tensor_index)


def _logits(output: Any) -> Any:
    """What the softmax of the network's last layer is applied to."""
    return output.input if type(output).__name__ == "Softmax" else _linear(output)(output.input)


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
    later = [output for output in features.outputs if output is not middle]
    start = keras.Input(middle.shape[1:])
    try:
        after = iter(keras.tree.flatten(keras.Model(middle, later)(start)) if later else ())
        outputs = [start if output is middle else next(after) for output in features.outputs]
        return keras.Model(features.input, middle), keras.Model(start, outputs if len(outputs) > 1 else outputs[0])
    except ValueError as error:  # another path leads past it
        raise UsageError(
            f'Part of the network leads past the layer "{layer}"; choose one where a block ends, '
            "such as an addition or the activation after it."
        ) from error


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
