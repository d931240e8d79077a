"""Where a network looks: Grad-CAM (Selvaraju et al., ICCV 2017) of cells cut out onto black, as pictures and as shares.

The map is that of the log-odds of a class, log p / (1 - p), which two logits' difference gives without rounding. On a
network whose feature map is pooled straight into the output layer it equals CAM (Zhou et al., CVPR 2016). A map is no
sharper than the layer's few places (5x5 of 160 px after a stride of 32), and each of them sees beyond itself: some
evidence next to a cell is the cell's own.

Networks side by side each have a map; its values are shares of the log-odds, so maps of one cell are added up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.errors import UsageError, did_you_mean

Floats = NDArray[np.float32]

FEATURES = "features"
"""The nested network whose output is the last feature map."""


@dataclass(frozen=True)
class Network:
    """A classifier cut in two at a feature map, or at one of each of the networks side by side in it."""

    trunk: Any
    """Network inputs to feature maps (M, h, w, c): one of each cell, or, one after another, of each of its views. With
    networks side by side to a list of such maps."""
    head: Any
    """Feature maps to logits (N, 2), one row for each cell."""
    layer: str
    """Where the maps are taken."""
    shown: int | None = None
    """The first so many maps are shown, the others only lead to the answer; None shows all."""


def cut(model: Any, layer: str | None = None) -> Network:
    """Cut a zoo's network at the output of a layer inside its features.

    By default that is their last feature map, or, where a head reads maps at several depths, the lowest of them, from
    which the others are computed; of several networks side by side, each one's. A layer of one of these is named
    NETWORK/LAYER, and the evidence that this network finds is shown. Raises UsageError when there is no such layer, or
    when it is not one that its whole network passes through.
    """
    import keras

    steps = model.operations
    names = [each.name for each in steps]
    if FEATURES not in names:
        raise UsageError(f'The network has no layers named "{FEATURES}"; train it again with: bloodedge train')
    place = names.index(FEATURES)
    features, maps = steps[place], _made_by(steps[place], steps[place + 1 :])
    rest = keras.Model(_one_or_all(maps), _logits(steps[-1]))
    if layer in {None, FEATURES}:
        if len(maps) == 1:
            return Network(keras.Model(model.input, maps[0]), rest, FEATURES)
        middles, shown = _lowest(features, features.outputs), None
    else:
        chosen = _output_of(features, str(layer).replace("/", "_"))
        middles, shown = [chosen, *_lowest(features, _beside(features, chosen))], 1
    lower, upper = _parted(features, middles)
    trunk = keras.Model(model.input, lower(steps[place - 1].output))
    names = [_maker(middle).name for middle in middles[:shown]]
    return Network(trunk, keras.Model(upper.input, rest(upper.output)), ", ".join(names), shown)


def _one_or_all(values: list[Any]) -> Any:
    return values if len(values) > 1 else values[0]


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


def _output_of(features: Any, layer: str) -> Any:
    maps = [each.name for each in features.layers[1:] if len(each.output.shape) == 4]
    if layer not in maps:
        raise UsageError(
            f'The network has no feature map "{layer}".{did_you_mean(layer, maps)} '
            f"The last ones are: {', '.join(maps[:-6:-1])}."
        )
    return features.get_layer(layer).output


def _leads_to(features: Any, tensor: Any) -> set[str]:
    """Names of the operations that a symbolic tensor of the features is computed by."""
    import keras

    return {operation.name for operation in keras.Model(features.input, tensor).operations}


def _lowest(features: Any, outputs: Sequence[Any]) -> list[Any]:
    """Those of the outputs that are computed from no other of them."""
    makers = {_maker(output).name for output in outputs}
    return [output for output in outputs if _leads_to(features, output) & makers == {_maker(output).name}]


def _beside(features: Any, chosen: Any) -> list[Any]:
    """The outputs of the features that neither are computed from ``chosen`` nor lead to it."""
    before, name = _leads_to(features, chosen), _maker(chosen).name
    return [
        output
        for output in features.outputs
        if _maker(output).name not in before and name not in _leads_to(features, output)
    ]


def _parted(features: Any, middles: list[Any]) -> tuple[Any, Any]:
    """The features as two networks, up to the symbolic tensors ``middles`` and after them."""
    import keras

    later = [output for output in features.outputs if all(output is not middle for middle in middles)]
    starts = [keras.Input(middle.shape[1:]) for middle in middles]
    try:
        after = keras.tree.flatten(keras.Model(_one_or_all(middles), later)(_one_or_all(starts))) if later else []
    except ValueError as error:  # another path leads past it
        raise UsageError(
            f'Part of the network leads past the layer "{_maker(middles[0]).name}"; choose one where a block ends, '
            "such as an addition or the activation after it."
        ) from error
    made = {id(tensor): value for tensor, value in zip([*middles, *later], [*starts, *after], strict=True)}
    outputs = [made[id(output)] for output in features.outputs]
    return keras.Model(features.input, _one_or_all(middles)), keras.Model(_one_or_all(starts), _one_or_all(outputs))


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
    import keras

    maps = [np.asarray(found, np.float32) for found in keras.tree.flatten(network.trunk.predict_on_batch(images))]
    logits = np.asarray(network.head.predict_on_batch(_one_or_all(maps)), np.float32)
    labels = logits.argmax(axis=1) if label is None else np.full(len(images), label)
    slopes = _gradients(network.head, maps, np.where(labels == 1, 1, -1).astype(np.float32))
    shown = list(zip(maps, slopes, strict=True))[: network.shown]
    evidence = _added([np.einsum("mhwc,mc->mhw", found, slope.mean(axis=(1, 2))) for found, slope in shown])
    return np.maximum(evidence, 0).reshape(*images.shape[:-3], *evidence.shape[1:]), logits


def _added(maps: Sequence[Floats]) -> Floats:
    """The sum of maps (M, h, w) of the same frames, as fine as the finest of them."""
    height, width = max((found.shape[1:] for found in maps), key=np.prod)
    return np.asarray(sum(_resized(found, height, width) for found in maps))


def _resized(maps: Floats, height: int, width: int) -> Floats:
    """Maps (M, h, w) as (M, height, width), what stands at a place shared out over the places that it covers."""
    if maps.shape[1:] == (height, width):
        return maps
    larger = [cv2.resize(one, (width, height), interpolation=cv2.INTER_NEAREST_EXACT) for one in maps]
    return np.array(larger, np.float32) * np.float32(maps[0].size / (height * width))


def _gradients(head: Any, maps: list[Floats], signs: Floats) -> list[Floats]:
    """The log-odds' gradient with respect to each feature map, (M, h, w, c), on the back end that Keras runs on.

    signs: (N,) 1 for the log-odds of a blast, -1 for those of a normal cell.
    """
    import keras

    starts = [keras.ops.convert_to_tensor(found) for found in maps]

    def log_odds(logits: Any) -> Any:
        return keras.ops.sum((logits[:, 1] - logits[:, 0]) * signs)

    gradients: Any
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        weights = [v.value for v in head.trainable_variables], [v.value for v in head.non_trainable_variables]

        def total_of(values: list[Any]) -> Any:
            return log_odds(head.stateless_call(*weights, _one_or_all(values), training=False)[0])

        gradients = jax.jit(jax.grad(total_of))(starts)
    elif backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(starts)
            total = log_odds(head(_one_or_all(starts), training=False))
        gradients = tape.gradient(total, starts)
    else:
        import torch

        for start in starts:
            start.requires_grad_()
        signs = keras.ops.convert_to_tensor(signs)
        gradients = torch.autograd.grad(log_odds(head(_one_or_all(starts), training=False)), starts)
    return [np.asarray(keras.ops.convert_to_numpy(gradient), np.float32) for gradient in gradients]
