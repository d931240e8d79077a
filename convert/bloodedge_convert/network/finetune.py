"""Fine-tuning with fake quantisation: the float network learns weights that survive int8 ("--qat").

Forward, every weight and every activation that an int8 engine will round is rounded (batch norms folded, ReLU fused, as
the converters do); backward, rounding counts as the identity (straight-through; Jacob et al., "Quantization and
training of neural networks for integer-arithmetic-only inference", CVPR 2018). The target is the float network's own
output, so no label is needed and nothing new is learnt of the cells: what is asked for is to say the same. The weights
found are put back into the Keras network, batch norms unfolded again, and take the usual way through conversion.

Conversion moves every bias by what rounding shifts its layer's outputs (``litert.bias``). The rounded network here does
so at every step, by a shift that is no part of the weights. Were it left to fitting, the biases would learn it, the
float network that they go back into would say something else, and conversion would correct the biases towards that.

In TensorFlow, as the converters are: its fake quantisation kernels are the reference that they were made with.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge_convert.cells.calibration_set import SPREAD, spread
from bloodedge_convert.job import FineTuning
from bloodedge_convert.litert.bias import FEWEST_VALUES
from bloodedge_convert.network.program import Call, Program, trace

BATCH = 16
RATE = 1e-5
"""Of Adam at its highest, after a tenth of the steps."""
LOOKS = 6
"""How often the calibration cells are looked at; the weights that rounding harms least there are kept."""
CLEAR = 2.0
"""Standard errors by which fitted weights must be better there. A change of the weights throws the dice of all rounding
errors anew: without this the luckiest look would be kept, and on other cells it is no better than where it began."""
CORRECTED_ON = 32
"""Calibration images over which a layer's mean outputs are compared."""
LINEAR = {"Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Dense"}
PASSIVE = {"Dropout", "ZeroPadding2D", "MaxPooling2D", "Reshape", "Flatten", "Identity", "Split"}
"""Layers whose output has their input's values, and its scale."""
SMALLEST_RANGE = 1e-6
SMALLEST_SCALE = 1e-6
"""A batch norm's channel scaled by less is dead and keeps its kernel."""
OPEN = (-math.inf, math.inf)

Images = NDArray[np.uint8]
Floats = NDArray[np.float32]
Progress = Callable[[int, int], None]
Site = Callable[[str, Any], Any]
"""Gives what an engine stores of a tensor, told its name."""


@dataclass(frozen=True)
class Folded:
    """A layer with weights, its batch norm folded in: what is fitted."""

    layer: Any
    norm: Any | None
    scale: Floats | None
    """(channels,): gamma over the standard deviation."""
    kernel: Any
    depthwise: Any | None
    """Of a separable convolution, whose ``kernel`` is the pointwise one."""
    bias: Any
    shift: Any
    """Added to the bias where the network is rounded, as conversion will; not fitted."""


@dataclass(frozen=True)
class Both:
    """A tensor of the network left unrounded and of the rounded one."""

    plain: Any
    rounded: Any


def finetune(model: Any, images: Images, calibration: Images, steps: int, seed: int, report: Progress) -> FineTuning:
    """Fit the weights of ``model`` (Keras, functional, softmax output) in place, where that clearly gains anything.

    images: network inputs to learn on, uint8 (N, H, W, 3) RGB; calibration: likewise, for the activations' ranges.
    """
    import keras
    import tensorflow as tf

    network = FakeQuantised(model)
    rounded = tf.function(network.__call__, reduce_retracing=True)
    reference = _probabilities(lambda cells: model(cells, training=False), calibration)

    def look() -> Floats:
        """Each calibration cell's distance, converted as it would be now."""
        network.observe(calibration)
        network.correct(spread(calibration)[:: SPREAD // CORRECTED_ON])
        distances: Floats = np.abs(_probabilities(rounded, calibration) - reference)[:, 1]
        return distances

    rising = max(1, steps // 10)
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps - rising, warmup_target=RATE, warmup_steps=rising)
    optimiser, variables = keras.optimizers.Adam(rate), network.variables
    optimiser.build(variables)

    @tf.function  # type: ignore[untyped-decorator]
    def step(cells: Any) -> None:
        wanted = model(cells, training=False)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(keras.losses.kl_divergence(wanted, network.corrected(cells)))
        optimiser.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    before = look()
    rng, best, kept = np.random.default_rng(seed), before, None
    for number in range(1, steps + 1):
        step(_turned(images[rng.integers(0, len(images), BATCH)], rng))
        report(number, steps)
        if number % max(1, steps // LOOKS) == 0:
            now = look()
            if is_nearer(now, before) and now.mean() < best.mean():
                best, kept = now, [np.asarray(variable) for variable in variables]
    if kept is not None:
        for variable, value in zip(variables, kept, strict=True):
            variable.assign(value)
        network.put_back()
    return FineTuning(steps=steps, before=float(before.mean()), after=float(best.mean()))


def is_nearer(now: Floats, before: Floats) -> bool:
    """Whether distances (N,) have become smaller by more than chance."""
    gain = before - now
    return bool(gain.mean() > CLEAR * gain.std() / math.sqrt(len(gain)))


def _turned(images: Images, rng: np.random.Generator) -> Images:
    """Each cell as one of its eight mirrorings and quarter turns."""
    turned = [np.rot90(image, int(rng.integers(4)))[:, :: int(rng.choice((1, -1)))] for image in images]
    return np.ascontiguousarray(np.stack(turned))


def _probabilities(network: Callable[[Any], Any], images: Images) -> Floats:
    parts = [np.asarray(network(images[i : i + BATCH])) for i in range(0, len(images), BATCH)]
    return np.concatenate(parts)


class FakeQuantised:
    """A network that rounds as its int8 conversion will; call it with uint8 (N, H, W, 3) for probabilities (N, 2)."""

    def __init__(self, model: Any) -> None:
        self.program = trace(model)
        self.folded, norms = _fold(self.program)
        self.skipped = {id(norm) for norm in norms}
        self.sites = _sites(self.program, self.folded, self.skipped)
        self.ranges: dict[str, Any] = {}

    @property
    def variables(self) -> list[Any]:
        """All kernels and biases."""
        parts = ((f.depthwise, f.kernel, f.bias) for f in self.folded.values())
        return [part for three in parts for part in three if part is not None]

    def observe(self, images: Images) -> None:
        """Take each activation's range over ``images``, as calibration does."""
        import tensorflow as tf

        ranges: dict[str, tuple[float, float]] = {}

        def see(name: str, value: Any) -> Any:
            low, high = ranges.get(name, (0.0, SMALLEST_RANGE))  # 0 is always among the int8 values
            ranges[name] = min(low, float(np.min(value))), max(high, float(np.max(value)))
            return value

        for start in range(0, len(images), BATCH):
            self._run(images[start : start + BATCH], see, _unrounded)
        for name, ends in ranges.items():
            self.ranges.setdefault(name, tf.Variable(ends)).assign(ends)

    def correct(self, images: Images) -> None:
        """Shift each layer's sums until their mean per channel over ``images`` is that of the network left unrounded.

        As ``litert.bias`` does: layer by layer, those before it corrected.
        """
        self._side_by_side(images, lambda folded, shift: folded.shift.assign(shift))

    def corrected(self, images: Any) -> Any:
        """Probabilities, rounded on the way, with the shifts that ``correct`` would find on these very images."""
        return self._side_by_side(images, lambda *_: None)

    def __call__(self, images: Any) -> Any:
        """Probabilities, rounded on the way; ``observe`` first."""
        return self._run(images, self._rounded, _rounded_kernel)

    def put_back(self) -> None:
        """Write the fitted weights into the Keras network that this was made from."""
        for folded in self.folded.values():
            _unfold(folded)

    def _rounded(self, name: str, value: Any) -> Any:
        import tensorflow as tf

        low, high = tf.unstack(self.ranges[name])
        return tf.quantization.fake_quant_with_min_max_vars(value, low, high)

    def _side_by_side(self, images: Any, found_shift: Callable[[Folded, Any], Any]) -> Any:
        """The rounded network's output; the network left unrounded runs beside it, one call at a time."""
        import keras

        limits = _limits(self.program, self.folded)

        def apply(call: Call, arguments: list[Any], options: dict[str, Any]) -> Any:
            plain, rounded = (keras.tree.map_structure(pick, arguments) for pick in (_of_plain, _of_rounded))
            folded = self.folded.get(call.output)
            if folded is None:
                pair = (
                    self._other(call, plain, options, _as_it_is),
                    self._other(call, rounded, options, self._rounded),
                )
                return keras.tree.map_structure(Both, *pair)
            wanted = keras.ops.stop_gradient(_sums(call, folded, plain[0], _as_it_is, _unrounded))
            found = _sums(call, folded, rounded[0], self._rounded, _rounded_kernel)
            shift = keras.ops.stop_gradient(_shift(wanted, found, limits[call.output]))
            found_shift(folded, shift)
            return Both(self._activated(call, wanted, _as_it_is), self._activated(call, found + shift, self._rounded))

        return self.program.run(Both(images, images), apply).rounded

    def _run(self, images: Any, site: Site, kernel: Callable[[Any], Any]) -> Any:
        def apply(call: Call, arguments: list[Any], options: dict[str, Any]) -> Any:
            folded = self.folded.get(call.output)
            if folded is None:
                return self._other(call, arguments, options, site)
            sums = _sums(call, folded, arguments[0], site, kernel)
            return self._activated(call, sums if kernel is _unrounded else sums + folded.shift, site)

        return self.program.run(images, apply)

    def _other(self, call: Call, arguments: list[Any], options: dict[str, Any], site: Site) -> Any:
        """A layer that is not fitted; a batch norm that went into the one before passes its values on."""
        value = arguments[0] if id(call.layer) in self.skipped else call.layer(*arguments, **options)
        return site(str(call.output), value) if call.output in self.sites else value

    def _activated(self, call: Call, sums: Any, site: Site) -> Any:
        """A fitted layer's own activation; the sums are stored before it where an engine cannot fuse it."""
        activation = call.layer.activation
        if activation.__name__ not in {"linear", "relu", "relu6"}:
            sums = site(f"{call.output} linear", sums)
        value = activation(sums)
        return site(str(call.output), value) if call.output in self.sites else value


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
    return type(layer).__name__ in {"ReLU", "Activation"} and _bounds(layer) != OPEN


def _bounds(layer: Any) -> tuple[float, float]:
    """Between which values the layer's ReLU or ReLU6 lets its input through."""
    if type(layer).__name__ == "ReLU":
        return 0.0, math.inf if layer.max_value is None else float(layer.max_value)
    named = getattr(getattr(layer, "activation", None), "__name__", "")
    return {"relu": (0.0, math.inf), "relu6": (0.0, 6.0)}.get(named, OPEN)


def _limits(program: Program, folded: dict[int, Folded]) -> dict[int, tuple[float, float]]:
    """``_bounds`` of the ReLU that an engine fuses with each layer, by the number of the layer's output."""
    consumers, limits = program.consumers(), {}
    for number, one in folded.items():
        after = consumers[number] if one.norm is None else consumers[consumers[number][0].output]
        fused = len(after) == 1 and _is_relu(after[0].layer)
        limits[number] = _bounds(after[0].layer if fused else one.layer)
    return limits


def _shift(wanted: Any, found: Any, limits: tuple[float, float]) -> Any:
    """Mean of ``wanted`` less ``found``, both (..., channels), per channel, over what a ReLU lets through."""
    from keras import ops

    axes = tuple(range(len(wanted.shape) - 1))
    if limits == OPEN:
        return ops.mean(wanted, axis=axes) - ops.mean(found, axis=axes)
    low, high = limits
    free = ops.minimum(wanted, found) > low
    if high < math.inf:
        free &= ops.maximum(wanted, found) < high
    count = ops.sum(ops.cast(free, "float32"), axis=axes)
    total = ops.sum(ops.where(free, wanted - found, 0.0), axis=axes)
    return ops.where(count >= FEWEST_VALUES, total / ops.maximum(count, 1), 0.0)


def _sums(call: Call, folded: Folded, x: Any, site: Site, rounded: Callable[[Any], Any]) -> Any:
    """The layer on ``x`` with its fitted weights, before its activation."""
    from keras import ops

    layer, kind = folded.layer, call.kind
    if kind == "Dense":
        y = ops.matmul(x, rounded(folded.kernel))
    elif kind == "DepthwiseConv2D":
        y = ops.depthwise_conv(x, _rounded_depthwise(folded.kernel, rounded), layer.strides, layer.padding)
    elif kind == "SeparableConv2D":
        y = ops.depthwise_conv(x, _rounded_depthwise(folded.depthwise, rounded), layer.strides, layer.padding)
        y = ops.conv(site(f"{call.output} depthwise", y), rounded(folded.kernel), 1, "valid")
    else:
        y = ops.conv(x, rounded(folded.kernel), layer.strides, layer.padding, dilation_rate=layer.dilation_rate)
    return y + folded.bias


def _of_plain(value: Any) -> Any:
    return value.plain if isinstance(value, Both) else value


def _of_rounded(value: Any) -> Any:
    return value.rounded if isinstance(value, Both) else value


def _as_it_is(_: str, value: Any) -> Any:
    return value


def _unrounded(kernel: Any) -> Any:
    return kernel


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
