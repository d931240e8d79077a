"""Fine-tuning with fake quantisation: the float network learns weights that survive int8 ("--qat").

Forward, every weight and every activation that an int8 engine will round is rounded (batch norms folded, ReLU fused, as
the converters do); backward, rounding counts as the identity (straight-through; Jacob et al., "Quantization and
training of neural networks for integer-arithmetic-only inference", CVPR 2018). The target is the float network's own
output, so no label is needed and nothing new is learnt of the cells: what is asked for is to say the same. The weights
found are put back into the Keras network, batch norms unfolded again, and take the usual way through conversion.

In TensorFlow, as the converters are: its fake quantisation kernels are the reference that they were made with.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge_convert.job import FineTuning
from bloodedge_convert.program import Call, Program, trace

BATCH = 16
RATE = 1e-4
LOOKS = 8
"""How often the calibration cells are looked at; the weights that rounding harms least there are kept."""
LINEAR = {"Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Dense"}
PASSIVE = {"Dropout", "ZeroPadding2D", "MaxPooling2D", "Reshape", "Flatten", "Identity", "Split"}
"""Layers whose output has their input's values, and its scale."""
SMALLEST_SCALE = 1e-6
"""A batch norm's channel scaled by less is dead and keeps its kernel."""

Images = NDArray[np.uint8]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Folded:
    """A layer with weights, its batch norm folded in: what is fitted."""

    layer: Any
    norm: Any | None
    scale: NDArray[np.float32] | None
    """(channels,): gamma over the standard deviation."""
    kernel: Any
    depthwise: Any | None
    """Of a separable convolution, whose ``kernel`` is the pointwise one."""
    bias: Any


def finetune(model: Any, images: Images, calibration: Images, steps: int, seed: int, report: Progress) -> FineTuning:
    """Fit the weights of ``model`` (Keras, functional, softmax output) in place, where that gains anything.

    images: network inputs to learn on, uint8 (N, H, W, 3) RGB; calibration: likewise, for the activations' ranges.
    """
    import keras
    import tensorflow as tf

    network = FakeQuantised(model)
    network.observe(calibration)
    reference = _probabilities(lambda x: model(x, training=False), calibration)
    before = _distance(network, calibration, reference)
    optimiser = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(RATE, steps))
    variables = network.variables
    optimiser.build(variables)

    @tf.function  # type: ignore[untyped-decorator]
    def step(cells: Any) -> None:
        wanted = model(cells, training=False)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(keras.losses.kl_divergence(wanted, network(cells)))
        optimiser.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    rng, best, kept = np.random.default_rng(seed), before, None
    for number in range(1, steps + 1):
        step(_turned(images[rng.integers(0, len(images), BATCH)], rng))
        report(number, steps)
        if number % max(1, steps // LOOKS) == 0 and (now := _distance(network, calibration, reference)) < best:
            best, kept = now, [np.asarray(variable) for variable in variables]
    if kept is not None:
        for variable, value in zip(variables, kept, strict=True):
            variable.assign(value)
        network.put_back()
    return FineTuning(steps=steps, before=before, after=best)


def _turned(images: Images, rng: np.random.Generator) -> Images:
    """Each cell as one of its eight mirrorings and quarter turns."""
    turned = [np.rot90(image, int(rng.integers(4)))[:, :: int(rng.choice((1, -1)))] for image in images]
    return np.ascontiguousarray(np.stack(turned))


def _probabilities(network: Callable[[Any], Any], images: Images) -> NDArray[np.float32]:
    parts = [np.asarray(network(images[i : i + BATCH])) for i in range(0, len(images), BATCH)]
    return np.concatenate(parts)


def _distance(network: "FakeQuantised", images: Images, reference: NDArray[np.float32]) -> float:
    return float(np.abs(_probabilities(network, images) - reference)[:, 1].mean())


class FakeQuantised:
    """A network that rounds as its int8 conversion will; call it with uint8 (N, H, W, 3) for probabilities (N, 2)."""

    def __init__(self, model: Any) -> None:
        self.program = trace(model)
        self.folded, norms = _fold(self.program)
        self.skipped = {id(norm) for norm in norms}
        self.sites = _sites(self.program, self.folded, self.skipped)
        self.ranges: dict[str, tuple[float, float]] = {}

    @property
    def variables(self) -> list[Any]:
        """All kernels and biases."""
        parts = ((f.depthwise, f.kernel, f.bias) for f in self.folded.values())
        return [part for three in parts for part in three if part is not None]

    def observe(self, images: Images) -> None:
        """Take each activation's range over ``images``, as calibration does."""
        ranges: dict[str, tuple[float, float]] = {}

        def see(name: str, value: Any) -> Any:
            low, high = ranges.get(name, (0.0, 0.0))  # 0 is always among the int8 values
            ranges[name] = min(low, float(np.min(value))), max(high, float(np.max(value)))
            return value

        for start in range(0, len(images), BATCH):
            self._run(images[start : start + BATCH], see, lambda kernel: kernel)
        self.ranges = ranges

    def __call__(self, images: Any) -> Any:
        """Probabilities, rounded on the way; ``observe`` first."""
        return self._run(images, self._rounded, _rounded_kernel)

    def put_back(self) -> None:
        """Write the fitted weights into the Keras network that this was made from."""
        for folded in self.folded.values():
            _unfold(folded)

    def _rounded(self, name: str, value: Any) -> Any:
        import tensorflow as tf

        low, high = self.ranges[name]
        return value if low == high else tf.quantization.fake_quant_with_min_max_args(value, low, high)

    def _run(self, images: Any, site: Callable[[str, Any], Any], kernel: Callable[[Any], Any]) -> Any:
        def apply(call: Call, arguments: list[Any], options: dict[str, Any]) -> Any:
            if id(call.layer) in self.skipped:
                value = arguments[0]
            elif call.output in self.folded:
                value = _linear(self.folded[call.output], arguments[0], site, kernel, f"{call.output}")
            else:
                value = call.layer(*arguments, **options)
            return site(str(call.output), value) if call.output in self.sites else value

        return self.program.run(images, apply)


def _fold(program: Program) -> tuple[dict[int, Folded], list[Any]]:
    """Layers with weights by their output's number, and the batch norms that went into them."""
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
            scale, shift = _scale_and_shift(norm)
            kernel, bias = kernel * _shaped(scale, layer), bias * scale + shift
        folded[call.output] = Folded(layer, norm, scale, tf.Variable(kernel), depthwise, tf.Variable(bias))
    return folded, norms


def _is_linear(layer: Any) -> bool:
    return bool(layer.activation.__name__ == "linear")


def _kernel(layer: Any) -> NDArray[np.float32]:
    return np.asarray(layer.pointwise_kernel if type(layer).__name__ == "SeparableConv2D" else layer.kernel)


def _scale_and_shift(norm: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
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


def _unfold(folded: Folded) -> None:
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


def _sites(program: Program, folded: dict[int, Folded], skipped: set[int]) -> set[int]:
    """Numbers of the tensors that an int8 engine stores: not those that the next layer takes in before rounding."""
    consumers, sites = program.consumers(), set()
    for call in program.calls:
        if call.output == program.output or call.kind in PASSIVE:
            continue
        into_norm = call.output in folded and folded[call.output].norm is not None
        linear = call.output in folded or id(call.layer) in skipped or call.kind == "Add"
        after = consumers[call.output]
        if into_norm or (linear and len(after) == 1 and _is_relu(after[0].layer)):
            continue
        sites.add(call.output)
    return sites


def _is_relu(layer: Any) -> bool:
    named = getattr(getattr(layer, "activation", None), "__name__", "")
    return type(layer).__name__ == "ReLU" or (type(layer).__name__ == "Activation" and named in {"relu", "relu6"})


def _linear(folded: Folded, x: Any, site: Callable[[str, Any], Any], rounded: Callable[[Any], Any], name: str) -> Any:
    """The layer on ``x`` with its fitted weights."""
    from keras import ops

    layer, kind = folded.layer, type(folded.layer).__name__
    if kind == "Dense":
        y = ops.matmul(x, rounded(folded.kernel))
    elif kind == "DepthwiseConv2D":
        y = ops.depthwise_conv(x, _rounded_depthwise(folded.kernel, rounded), layer.strides, layer.padding)
    elif kind == "SeparableConv2D":
        y = ops.depthwise_conv(x, _rounded_depthwise(folded.depthwise, rounded), layer.strides, layer.padding)
        y = ops.conv(site(f"{name} depthwise", y), rounded(folded.kernel), 1, "valid")
    else:
        y = ops.conv(x, rounded(folded.kernel), layer.strides, layer.padding, dilation_rate=layer.dilation_rate)
    y = y + folded.bias
    if layer.activation.__name__ not in {"linear", "relu", "relu6"}:
        y = site(f"{name} linear", y)
    return layer.activation(y)


def _rounded_depthwise(kernel: Any, rounded: Callable[[Any], Any]) -> Any:
    """Each of the channels by a scale of its own; they lie on the two last axes."""
    from keras import ops

    return ops.reshape(rounded(ops.reshape(kernel, (*kernel.shape[:2], -1))), kernel.shape)


def _rounded_kernel(kernel: Any) -> Any:
    """Symmetric int8 with a scale per output channel, -127 to 127."""
    import tensorflow as tf

    largest = tf.stop_gradient(tf.reduce_max(tf.abs(kernel), axis=tuple(range(len(kernel.shape) - 1))))
    largest = tf.maximum(largest, 1e-9)
    flat = tf.reshape(kernel, (-1, kernel.shape[-1]))
    rounded = tf.quantization.fake_quant_with_min_max_vars_per_channel(flat, -largest, largest, narrow_range=True)
    return tf.reshape(rounded, kernel.shape)
