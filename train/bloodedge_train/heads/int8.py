"""A backbone that rounds its activations to int8's steps, by which heads learn which features rounding blurs."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge_train import zoo
from bloodedge_train.heads.backbone import Backbone, as_list, pooled

BATCH = 16
STEPS = 255
KERNELS = {"Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Dense"}
STORED = KERNELS | {"Activation", "Add", "BatchNormalization", "Concatenate", "Multiply", "ReLU"}
"""Layers whose outputs an int8 engine rounds, unless it computes the next layer with them first."""

Frames = NDArray[np.uint8]


def with_int8_activations(backbone: Backbone, frames: Frames) -> Backbone:
    """The backbone with each activation that int8 engines store rounded to a step of its range over ``frames``.

    frames: uint8 (N, size_px, size_px, 3) RGB. Weights are not rounded: conversion does that so that it hardly shows.
    """
    import keras
    from keras import layers, ops

    class Rounded(layers.Layer):  # type: ignore[misc]
        """Values on steps of a range, one of them 0."""

        def __init__(self, low: float, high: float) -> None:
            super().__init__()
            self.step = (high - low) / STEPS
            self.zero = round(-low / self.step)

        def call(self, inputs: Any) -> Any:
            """Any shape."""
            steps = ops.clip(ops.round(inputs / self.step) + self.zero, 0, STEPS)
            return (steps - self.zero) * self.step

    maps, made = backbone.maps, {}
    ranges = _ranges(backbone, frames)

    def call(layer: Any, *arguments: Any, **options: Any) -> Any:
        output = layer(*arguments, **options)
        made[layer.name] = Rounded(*ranges[layer.name])(output) if layer.name in ranges else output
        return made[layer.name]

    frame = keras.Input((backbone.size_px, backbone.size_px, 3), dtype="uint8", name="image")
    scaled = zoo.scale(backbone.model, frame)
    keras.models.clone_model(maps, input_tensors=scaled, clone_function=lambda layer: layer, call_function=call)
    outputs = [made[output._keras_history.operation.name] for output in maps.outputs]
    return replace(backbone, pooled=keras.Model(frame, [pooled(output) for output in outputs]))


def _ranges(backbone: Backbone, frames: Frames) -> dict[str, tuple[float, float]]:
    """Lowest and highest value of each activation that is stored, 0 among them, by its layer's name."""
    import keras

    maps = backbone.maps
    names = stored(maps)
    watched = keras.Model(maps.inputs, [maps.get_layer(name).output for name in names])
    lows, highs = np.zeros(len(names)), np.full(len(names), 1e-6)
    for start in range(0, len(frames), BATCH):
        scaled = zoo.scale(backbone.model, keras.ops.convert_to_tensor(frames[start : start + BATCH]))
        found = [keras.ops.convert_to_numpy(values) for values in as_list(watched(scaled, training=False))]
        lows = np.minimum(lows, [values.min() for values in found])
        highs = np.maximum(highs, [values.max() for values in found])
    return dict(zip(names, zip(lows.tolist(), highs.tolist(), strict=True), strict=True))


def stored(network: Any) -> list[str]:
    """Names of a Keras model's layers whose outputs an int8 engine rounds."""
    after: dict[str, list[Any]] = {layer.name: [] for layer in network.operations}
    for node in (node for depth in network._nodes_by_depth.values() for node in depth):
        for parent in node.parent_nodes:
            after[parent.operation.name].append(node.operation)
    return [
        layer.name
        for layer in network.operations
        if type(layer).__name__ in STORED and not _is_fused(layer, after[layer.name])
    ]


def _is_fused(layer: Any, after: list[Any]) -> bool:
    """Whether the only layer after it is computed with it."""
    kinds = [type(one).__name__ for one in after]
    return kinds in (["ReLU"], ["Activation"]) or (type(layer).__name__ in KERNELS and kinds == ["BatchNormalization"])
