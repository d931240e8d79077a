"""Multiply-accumulates of a network for one cell."""

import math
from typing import Any


def count_macs(model: Any) -> int:
    """Multiply-accumulates that the Keras ``model`` spends on one cell, in all of its views.

    Counted are two-dimensional, depthwise and separable convolutions and fully connected layers, those of nested models
    included; every other layer (normalisation, activation, pooling, addition) counts nothing, as in the papers whose
    figures these are compared with. The input's size must be fixed, and each layer must be used once. A nested model
    works on each view, a layer beside it on all of them together.
    """
    import keras

    layers = keras.layers
    views = model.input_shape[1] if len(model.input_shape) == 5 else 1
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            total += views * count_macs(layer)
        elif isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D)):
            total += _positions(layer) * math.prod(layer.kernel.shape)
        elif isinstance(layer, layers.SeparableConv2D):
            kernels = math.prod(layer.depthwise_kernel.shape) + math.prod(layer.pointwise_kernel.shape)
            total += _positions(layer) * kernels
        elif isinstance(layer, layers.Dense):
            total += math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
    return total


def _positions(layer: Any) -> int:
    """Places at which a convolution's kernel (h, w, in per group, out) is applied: height x width of its output."""
    shape = layer.output.shape
    return int(math.prod(shape[2:] if layer.data_format == "channels_first" else shape[1:-1]))
