"""Replaces layers for which an engine has no fast kernel by equal forms that are fast.

XNNPACK, which runs LiteRT's networks, has depthwise kernels of up to 25 taps. A larger one (ConvNeXt's 7x7) runs as a
grouped convolution with one channel a group, ten times slower than the same taps as a sum of smaller convolutions. It
has no int8 average pooling, and a depthwise convolution with equal weights is one where no window reaches over the
border. Keras' layer normalisation becomes ten operations; written out, with its gain and offset moved into the layer
after it, it is half as slow, and ``litert.write`` keeps it in float32 by ``FLOAT_MARK`` in its name.

OpenVINO subtracts the zero point of a fully connected layer's int8 input in float32; a convolution takes it as it is.

Only the order of sums changes, so outputs equal the float network's up to rounding. That is measured: a kind of rewrite
that moves a probability by more than ``TOLERANCE`` is left out.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from bloodedge.bundle.manifest import EngineName
from bloodedge_convert.job import Rewrite
from bloodedge_convert.litert.write import FLOAT_MARK
from bloodedge_convert.network.program import Call, Program, trace

TOLERANCE = 1e-4
"""Largest change of a probability."""
IMAGES = 16
"""Images on which that is measured."""
MOST_TAPS = 25
"""Largest depthwise kernel of XNNPACK, in f32 and qs8 (f32-dwconv and qs8-dwconv come with 3, 4, 9 and 25 taps)."""

Replacements = dict[int, Any]
"""Layers to call instead of a program's own, by the number of the call's output."""


class Strips(layers.Layer):  # type: ignore[misc]
    """A depthwise convolution as a sum of depthwise convolutions, each of a few of its kernel's rows."""

    def __init__(self, layer: Any) -> None:
        super().__init__(name=f"{layer.name}_strips")
        self.layer = layer

    def call(self, inputs: Any) -> Any:
        """Inputs (N, H, W, C) to outputs (N, H', W', C)."""
        kernel = self.layer.kernel
        if isinstance(self.layer, layers.Conv2D):
            kernel = ops.transpose(kernel, (0, 1, 3, 2))
        if self.layer.padding == "same":
            inputs, kernel = _padded(inputs, kernel)
        height, width, *_ = kernel.shape
        rows, step = inputs.shape[1] - height + 1, MOST_TAPS // width
        parts = [
            ops.depthwise_conv(inputs[:, top : top + rows + taps.shape[0] - 1], taps, padding="valid")
            for top, taps in ((top, kernel[top : top + step]) for top in range(0, height, step))
        ]
        if self.layer.use_bias:
            parts[0] += self.layer.bias
        return self.layer.activation(sum(parts[1:], parts[0]))


def _padded(inputs: Any, kernel: Any) -> tuple[Any, Any]:
    """The inputs padded with zeros for as many outputs at stride 1, and the kernel.

    Both without the parts that meet no input: a strip that sees nothing but zeros has no range to quantise to.
    """
    reaches = []
    for axis in (0, 1):
        size, taps = inputs.shape[1 + axis], kernel.shape[axis]
        before, after = (taps - 1) // 2, taps // 2
        reaches.append((min(before, size - 1), min(after, size - 1)))
        kernel = ops.take(kernel, range(before - reaches[axis][0], before + reaches[axis][1] + 1), axis=axis)
    return ops.pad(inputs, ((0, 0), *reaches, (0, 0))), kernel


class MeanConvolution(layers.Layer):  # type: ignore[misc]
    """Average pooling as a depthwise convolution with equal weights; no window may reach over the border."""

    def __init__(self, layer: Any) -> None:
        super().__init__(name=f"{layer.name}_convolution")
        self.layer = layer

    def call(self, inputs: Any) -> Any:
        """Inputs (N, H, W, C) to outputs (N, H', W', C)."""
        height, width = self.layer.pool_size
        mean = np.full((height, width, inputs.shape[-1], 1), 1 / (height * width), np.float32)
        return ops.depthwise_conv(inputs, mean, strides=self.layer.strides, padding="valid")


class OnePixelConvolution(layers.Layer):  # type: ignore[misc]
    """A fully connected layer on a map, which is a convolution of one pixel."""

    def __init__(self, layer: Any) -> None:
        super().__init__(name=f"{layer.name}_convolution")
        self.layer = layer

    def call(self, inputs: Any) -> Any:
        """Inputs (N, H, W, C) to outputs (N, H, W, units)."""
        outputs = ops.conv(inputs, self.layer.kernel[np.newaxis, np.newaxis])
        if self.layer.use_bias:
            outputs += self.layer.bias
        return self.layer.activation(outputs)


class PlainNorm(layers.Layer):  # type: ignore[misc]
    """Layer normalisation over the last axis, without its gain and offset if ``folded``."""

    def __init__(self, layer: Any, *, folded: bool) -> None:
        super().__init__(name=f"{layer.name}_{FLOAT_MARK}")
        self.layer, self.folded = layer, folded

    def call(self, inputs: Any) -> Any:
        """Inputs (..., C) to outputs of the same shape."""
        centred = inputs - ops.mean(inputs, axis=-1, keepdims=True)
        variance = ops.mean(ops.square(centred), axis=-1, keepdims=True)
        normal = centred * ops.rsqrt(variance + self.layer.epsilon)
        return normal if self.folded else normal * self.layer.gamma + self.layer.beta


def rewrite(model: Any, engine: EngineName, images: NDArray[np.uint8]) -> tuple[Any, list[Rewrite]]:
    """The network in a faster, equal form for an engine, and a record of each kind of rewrite.

    model: a Keras functional network, which is not changed. images: calibration inputs uint8 (N, H, W, 3) RGB, on which
    both networks' outputs are compared.
    """
    images = images[:IMAGES]
    reference: NDArray[np.float32] | None = None
    done = []
    for name, find in KINDS.get(engine, {}).items():
        program = trace(model)
        found = find(program)
        if not found:
            continue
        reference = _outputs(model, images) if reference is None else reference
        changed = _built(program, model, found)
        difference = float(np.abs(_outputs(changed, images) - reference).max())
        row = Rewrite(
            engine=engine, name=name, layers=len(found), max_difference=difference, kept=difference <= TOLERANCE
        )
        model = changed if row.kept else model
        done.append(row)
    return model, done


def _outputs(model: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The network's outputs, image by image: a batch takes gigabytes in a large network, which the process keeps."""
    return np.concatenate([np.asarray(model(image[np.newaxis], training=False)) for image in images])


def _built(program: Program, model: Any, replacements: Replacements) -> Any:
    """The program as a Keras network, with some of its layers replaced."""

    def apply(call: Call, arguments: list[Any], options: dict[str, Any]) -> Any:
        return replacements.get(call.output, call.layer)(*arguments, **options)

    image = keras.Input(model.input_shape[1:], dtype=model.inputs[0].dtype, name="image")
    return keras.Model(image, program.run(image, apply), name=model.name)


def _large_depthwise(program: Program) -> Replacements:
    return {call.output: Strips(call.layer) for call in program.calls if _is_large_depthwise(call.layer)}


def _is_large_depthwise(layer: Any) -> bool:
    if isinstance(layer, layers.DepthwiseConv2D):
        depthwise = layer.depth_multiplier == 1
    else:
        depthwise = isinstance(layer, layers.Conv2D) and layer.groups == layer.filters == layer.input_spec.axes[-1]
    if not depthwise or layer.data_format != "channels_last":
        return False
    height, width = layer.kernel_size
    plain = set(layer.strides) == {1} == set(layer.dilation_rate)
    return plain and height * width > MOST_TAPS >= width


def _layer_norms(program: Program) -> Replacements:
    """Plain normalisations, and the layers that take over their gain and offset."""
    found: Replacements = {}
    consumers = program.consumers()
    for call in program.calls:
        if not isinstance(call.layer, layers.LayerNormalization) or not _is_over_channels(call.layer):
            continue
        after = consumers[call.output]
        folded = len(after) == 1 and _takes_gain(after[0].layer)
        found[call.output] = PlainNorm(call.layer, folded=folded)
        if folded:
            found[after[0].output] = _with_gain(after[0].layer, call.layer)
    return found


def _is_over_channels(norm: Any) -> bool:
    whole = norm.gamma is not None and norm.beta is not None
    return whole and not norm.rms_scaling and norm.axis in (-1, [-1], [3])


def _takes_gain(layer: Any) -> bool:
    """Whether an offset of the layer's inputs shifts all outputs alike; padding with zeros prevents that."""
    if isinstance(layer, layers.Conv2D):
        return layer.padding == "valid" and layer.groups == 1 and type(layer) is layers.Conv2D
    return type(layer) is layers.Dense


def _with_gain(layer: Any, norm: Any) -> Any:
    """The layer with the norm's gain and offset moved into its weights."""
    gain, offset, kernel = (np.asarray(weight, np.float64) for weight in (norm.gamma, norm.beta, layer.kernel))
    bias = np.asarray(layer.bias, np.float64) if layer.use_bias else 0.0
    shift = (kernel * offset[:, np.newaxis]).sum(axis=tuple(range(kernel.ndim - 1)))
    changed = type(layer).from_config(layer.get_config() | {"use_bias": True})
    changed.build((None, *([None] * (kernel.ndim - 2)), kernel.shape[-2]) if kernel.ndim > 2 else (None, len(kernel)))
    changed.set_weights([kernel * gain[:, np.newaxis], bias + shift])
    return changed


def _dense_on_maps(program: Program) -> Replacements:
    return {
        call.output: OnePixelConvolution(call.layer)
        for call in program.calls
        if type(call.layer) is layers.Dense and len(call.layer.input.shape) == 4
    }


def _average_pools(program: Program) -> Replacements:
    return {call.output: MeanConvolution(call.layer) for call in program.calls if _is_borderless_pool(call.layer)}


def _is_borderless_pool(layer: Any) -> bool:
    if not isinstance(layer, layers.AveragePooling2D) or layer.data_format != "channels_last":
        return False
    if layer.padding == "valid":
        return True
    sides = zip(layer.input.shape[1:3], layer.pool_size, layer.strides, strict=True)
    return all((-(-size // stride) - 1) * stride + window <= size for size, window, stride in sides)


KINDS: dict[str, dict[str, Callable[[Program], Replacements]]] = {
    "litert": {
        "layer normalisations written out, their gain in the next layer": _layer_norms,
        "large depthwise convolutions as sums of smaller ones": _large_depthwise,
        "average pools within the borders as depthwise convolutions": _average_pools,
    },
    "openvino": {
        "layer normalisations written out, their gain in the next layer": _layer_norms,
        "fully connected layers on maps as convolutions": _dense_on_maps,
    },
}
"""Rewrites for an engine, in this order; each works on the result of those before it."""
