"""A Keras network that rounds as its int8 conversion will, for fine-tuning.

Batch norms are folded and ReLUs fused, as the converters do; then every weight and activation is rounded that an int8
engine rounds. Backward, rounding counts as the identity (straight-through; Jacob et al., "Quantization and training of
neural networks for integer-arithmetic-only inference", CVPR 2018).

Conversion moves every bias by the shift of its layer's rounded outputs (``litert.bias``). This network does so at every
step, by a shift that is not among the fitted weights. Otherwise fitting would teach the biases the shift, the float
network that they return to would give other outputs, and conversion would correct the biases towards those.

It runs in TensorFlow, as the converters do: its fake quantisation kernels are their reference.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge_convert.litert.bias import MIN_VALUES
from bloodedge_convert.network.folding import Folded, fold, unfold
from bloodedge_convert.network.program import Call, Program, trace

BATCH = 16
PASSIVE = {"Dropout", "ZeroPadding2D", "MaxPooling2D", "Reshape", "Flatten", "Identity", "Split"}
"""Layers whose output has their input's values, and its scale."""
SMALLEST_RANGE = 1e-6
OPEN = (-math.inf, math.inf)

Images = NDArray[np.uint8]
Floats = NDArray[np.float32]
Store = Callable[[str, Any], Any]
"""Gives what an engine stores of a tensor with this name."""


@dataclass(frozen=True)
class Both:
    """A tensor of the unrounded and of the rounded network."""

    plain: Any
    rounded: Any


class FakeQuantised:
    """A network that rounds as its int8 conversion will; call it with uint8 (N, H, W, 3) for probabilities (N, 2)."""

    def __init__(self, model: Any) -> None:
        self.program = trace(model)
        self.folded, norms = fold(self.program)
        self.skipped = {id(norm) for norm in norms}
        self.sites = _sites(self.program, self.folded, self.skipped)
        self.ranges: dict[str, Any] = {}

    @property
    def variables(self) -> list[Any]:
        """All kernels and biases."""
        parts = ((f.depthwise, f.kernel, f.bias) for f in self.folded.values())
        return [part for three in parts for part in three if part is not None]

    def observe(self, images: Images) -> None:
        """Measure each activation's range over ``images``, as calibration does."""
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
        """Shift each layer's sums until their means per channel over ``images`` are the unrounded network's.

        As ``litert.bias`` does: layer by layer, after those before it.
        """
        self._side_by_side(images, lambda folded, shift: folded.shift.assign(shift))

    def corrected(self, images: Any) -> Any:
        """Probabilities of the rounded network, with the shifts that ``correct`` would find on these images."""
        return self._side_by_side(images, lambda *_: None)

    def __call__(self, images: Any) -> Any:
        """Probabilities of the rounded network; call ``observe`` first."""
        return self._run(images, self._rounded, _rounded_kernel)

    def put_back(self) -> None:
        """Write the fitted weights into the Keras network."""
        for folded in self.folded.values():
            unfold(folded)

    def _rounded(self, name: str, value: Any) -> Any:
        import tensorflow as tf

        low, high = tf.unstack(self.ranges[name])
        return tf.quantization.fake_quant_with_min_max_vars(value, low, high)

    def _side_by_side(self, images: Any, found_shift: Callable[[Folded, Any], Any]) -> Any:
        """The rounded network's output; the unrounded network runs beside it, call by call."""
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
            exact = keras.ops.stop_gradient(_sums(call, folded, plain[0], _as_it_is, _unrounded))
            found = _sums(call, folded, rounded[0], self._rounded, _rounded_kernel)
            shift = keras.ops.stop_gradient(_shift(exact, found, limits[call.output]))
            found_shift(folded, shift)
            return Both(self._activated(call, exact, _as_it_is), self._activated(call, found + shift, self._rounded))

        return self.program.run(Both(images, images), apply).rounded

    def _run(self, images: Any, store: Store, kernel: Callable[[Any], Any]) -> Any:
        def apply(call: Call, arguments: list[Any], options: dict[str, Any]) -> Any:
            folded = self.folded.get(call.output)
            if folded is None:
                return self._other(call, arguments, options, store)
            sums = _sums(call, folded, arguments[0], store, kernel)
            return self._activated(call, sums if kernel is _unrounded else sums + folded.shift, store)

        return self.program.run(images, apply)

    def _other(self, call: Call, arguments: list[Any], options: dict[str, Any], store: Store) -> Any:
        """A layer that is not fitted; a folded batch norm passes its values on."""
        value = arguments[0] if id(call.layer) in self.skipped else call.layer(*arguments, **options)
        return store(str(call.output), value) if call.output in self.sites else value

    def _activated(self, call: Call, sums: Any, store: Store) -> Any:
        """A fitted layer's activation; where an engine cannot fuse it, the sums are stored first."""
        activation = call.layer.activation
        if activation.__name__ not in {"linear", "relu", "relu6"}:
            sums = store(f"{call.output} linear", sums)
        value = activation(sums)
        return store(str(call.output), value) if call.output in self.sites else value


def _sites(program: Program, folded: dict[int, Folded], skipped: set[int]) -> set[int]:
    """Numbers of the tensors that an int8 engine stores; it fuses the others into the next layer before rounding."""
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
    """The range of inputs that the layer's ReLU or ReLU6 passes on."""
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
    """Mean per channel of ``wanted`` minus ``found``, both (..., channels), over the values that a ReLU passes on."""
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
    return ops.where(count >= MIN_VALUES, total / ops.maximum(count, 1), 0.0)


def _sums(call: Call, folded: Folded, x: Any, store: Store, rounded: Callable[[Any], Any]) -> Any:
    """The layer on ``x`` with its fitted weights, before its activation."""
    from keras import ops

    layer, kind = folded.layer, call.kind
    if kind == "Dense":
        y = ops.matmul(x, rounded(folded.kernel))
    elif kind == "DepthwiseConv2D":
        y = ops.depthwise_conv(x, _rounded_depthwise(folded.kernel, rounded), layer.strides, layer.padding)
    elif kind == "SeparableConv2D":
        y = ops.depthwise_conv(x, _rounded_depthwise(folded.depthwise, rounded), layer.strides, layer.padding)
        y = ops.conv(store(f"{call.output} depthwise", y), rounded(folded.kernel), 1, "valid")
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
    """A depthwise kernel rounded per channel; channels lie on the two last axes."""
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
