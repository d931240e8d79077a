"""Batch norms folded into the layers before them, and unfolded again after fitting."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge_convert.network.program import LINEAR, Program

SMALLEST_SCALE = 1e-6
"""A batch norm's channel with a smaller scale is dead and keeps its kernel."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Folded:
    """A layer with weights and its batch norm folded in; these are fitted."""

    layer: Any
    norm: Any | None
    scale: Floats | None
    """(channels,): gamma over the standard deviation."""
    kernel: Any
    depthwise: Any | None
    """Of a separable convolution; its ``kernel`` is the pointwise kernel."""
    bias: Any
    shift: Any
    """Added to the bias in the rounded network, as conversion will do; not fitted."""


def fold(program: Program) -> tuple[dict[int, Folded], list[Any]]:
    """Layers with weights by their output's number, and the folded batch norms."""
    import tensorflow as tf

    consumers, folded, norms = program.consumers(), {}, []
    for call in program.calls:
        if call.kind not in LINEAR:
            continue
        layer, after = call.layer, consumers[call.output]
        norm = after[0].layer if [c.kind for c in after] == ["BatchNormalization"] and _is_linear(layer) else None
        depthwise, kernel = None, _kernel(layer)
        if call.kind == "SeparableConv2D":
            depthwise = tf.Variable(layer.depthwise_kernel)
        channels = math.prod(kernel.shape[2:]) if call.kind == "DepthwiseConv2D" else kernel.shape[-1]
        bias = np.zeros(channels, np.float32) if layer.bias is None else np.asarray(layer.bias)
        scale = None
        if norm is not None:
            norms.append(norm)
            scale, offset = _scale_and_offset(norm)
            kernel, bias = kernel * _shaped(scale, layer), bias * scale + offset
        shift = tf.Variable(np.zeros_like(bias), trainable=False)
        folded[call.output] = Folded(layer, norm, scale, tf.Variable(kernel), depthwise, tf.Variable(bias), shift)
    return folded, norms


def _is_linear(layer: Any) -> bool:
    return bool(layer.activation.__name__ == "linear")


def _kernel(layer: Any) -> Floats:
    return np.asarray(layer.pointwise_kernel if type(layer).__name__ == "SeparableConv2D" else layer.kernel)


def _scale_and_offset(norm: Any) -> tuple[Floats, Floats]:
    mean, variance = np.asarray(norm.moving_mean), np.asarray(norm.moving_variance)
    gamma = np.asarray(norm.gamma) if norm.scale else np.ones_like(mean)
    beta = np.asarray(norm.beta) if norm.center else np.zeros_like(mean)
    scale = gamma / np.sqrt(variance + norm.epsilon)
    return scale, beta - mean * scale


def _shaped(scale: NDArray[Any], layer: Any) -> NDArray[Any]:
    """A factor per output channel in the kernel's shape: a depthwise kernel is (h, w, channels, multiplier)."""
    if type(layer).__name__ == "DepthwiseConv2D":
        return scale.reshape(1, 1, *layer.kernel.shape[2:])
    return scale


def unfold(folded: Folded) -> None:
    """Write fitted weights into the Keras layer and its batch norm."""
    layer, kernel, bias = folded.layer, np.asarray(folded.kernel), np.asarray(folded.bias)
    if folded.norm is not None and folded.scale is not None:
        living = np.abs(folded.scale) > SMALLEST_SCALE
        scale = _shaped(np.where(living, folded.scale, 1), layer)
        kernel = np.where(_shaped(living, layer), kernel / scale, _kernel(layer))
        own = 0 if layer.bias is None else np.asarray(layer.bias)
        folded.norm.beta.assign(bias - (own - np.asarray(folded.norm.moving_mean)) * folded.scale)
    elif layer.bias is not None:
        layer.bias.assign(bias)
    if folded.depthwise is None:
        layer.kernel.assign(kernel)
    else:
        layer.depthwise_kernel.assign(folded.depthwise)
        layer.pointwise_kernel.assign(kernel)
