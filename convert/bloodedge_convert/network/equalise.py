"""Brings a network's channels to like ranges before it is quantised; its outputs stay the same.

Both engines round a layer's activations in steps of one size for all channels, the widest channel's, and its weights in
steps of one size per output channel. Where only ReLU, pooling or zero padding lies between two layers, a channel may be
divided by a positive factor in the first and multiplied by it in the second (cross-layer equalisation; Nagel et al.,
"Data-free quantization through weight equalization and bias correction", ICCV 2019). The factors are those of Xiao et
al., "SmoothQuant", ICML 2023: the activation's range to a power over the weights' range to the rest of it, from which
the power is taken that leaves the second layer least rounding noise.

The result serves inference only: its batch norms' variances are no longer those of their inputs.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge_convert.cells.calibration_set import spread
from bloodedge_convert.network.program import LINEAR, Call, Program, trace

BATCH = 16
SMALLEST, LARGEST = 1 / 16, 16.0
"""Factors, about a geometric mean of 1."""
POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)
DEAD = 1e-6
"""A channel whose activation or weights are narrower than this share of the widest stays as it is."""
PASSIVE = {
    "AveragePooling2D", "Dropout", "GlobalAveragePooling2D", "GlobalMaxPooling2D", "Identity", "MaxPooling2D",
    "ZeroPadding2D"
}  # fmt: skip
"""Layers whose output scales with their input, channel by channel."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """Two layers with weights and the batch norms between them."""

    first: Any
    norms: list[Any]
    second: Call


@dataclass(frozen=True)
class Seen:
    """A layer's input by channel (C,): lowest and highest value, 0 included, and mean square."""

    low: Floats
    high: Floats
    power: Floats


@dataclass(frozen=True)
class Weights:
    """A layer's weights by input channel, relative to the largest of their output channel; groups are contiguous."""

    largest: Floats
    """(inputs of a group, groups, outputs of a group)."""
    energy: Floats
    """(inputs of a group, groups): the sum of squares over outputs and taps."""
    taps: int

    def shaped(self, channels: Floats) -> Floats:
        """A value per channel (C,) as (inputs of a group, groups)."""
        return channels.reshape(self.energy.shape[::-1]).T

    def flat(self, values: Floats) -> Floats:
        """(inputs of a group, groups) as (C,)."""
        return values.T.ravel()


def equalise(model: Any, images: NDArray[np.uint8]) -> int:
    """Rescale channels in ``model`` (Keras, functional) in place; returns the number of changed pairs of layers.

    images: network inputs uint8 (N, H, W, 3) RGB, on which activations are measured (some, evenly spread). Layers that
    are called more than once, and activations other than ReLU, are left as they are.
    """
    program = trace(model)
    pairs = _pairs(program)
    seen = _measure(program, {pair.second.output for pair in pairs}, spread(images))
    changed = 0
    for pair in pairs:
        factors = choose_factors(seen[pair.second.output], _weights(pair.second))
        if factors is not None:
            _rescale(pair, factors.astype(np.float32))
            changed += 1
    return changed


def _pairs(program: Program) -> list[Pair]:
    consumers, uses = program.consumers(), Counter(id(call.layer) for call in program.calls)
    pairs = []
    for call in program.calls:
        if call.kind not in LINEAR or not _is_plain(call.layer):
            continue
        norms, after = [], consumers[call.output]
        while len(after) == 1 and _is_scalable(after[0]):
            if after[0].kind == "BatchNormalization":
                norms.append(after[0].layer)
            after = consumers[after[0].output]
        if len(after) != 1 or after[0].kind not in LINEAR:
            continue
        layers = [call.layer, *norms, after[0].layer]
        if all(uses[id(layer)] == 1 and _is_channels_last(layer) for layer in layers):
            pairs.append(Pair(call.layer, norms, after[0]))
    return pairs


def _is_plain(layer: Any) -> bool:
    return layer.activation.__name__ in {"linear", "relu"}


def _is_scalable(call: Call) -> bool:
    """Whether the layer's output scales with its input; a batch norm is rescaled to."""
    if call.kind == "ReLU":
        return call.layer.max_value is None and not call.layer.threshold
    if call.kind == "Activation":
        return _is_plain(call.layer)
    return call.kind in PASSIVE or call.kind == "BatchNormalization"


def _is_channels_last(layer: Any) -> bool:
    return getattr(layer, "data_format", "channels_last") == "channels_last" and getattr(layer, "axis", -1) in (-1, 3)


def _measure(program: Program, takers: set[int], images: NDArray[np.uint8]) -> dict[int, Seen]:
    """The inputs of the layers ``takers``, by the number of their output."""
    parts: dict[int, list[Seen]] = {number: [] for number in takers}

    def apply(call: Call, arguments: list[Any], options: dict[str, Any]) -> Any:
        if call.output in takers:
            values = np.asarray(arguments[0], np.float64)
            values = values.reshape(-1, values.shape[-1])
            parts[call.output].append(Seen(values.min(axis=0), values.max(axis=0), np.square(values).mean(axis=0)))
        return call.layer(*arguments, **options)

    for start in range(0, len(images), BATCH):
        program.run(images[start : start + BATCH], apply)
    return {number: _joined(seen) for number, seen in parts.items()}


def _joined(parts: Iterable[Seen]) -> Seen:
    lows, highs, powers = (np.stack(values) for values in zip(*((p.low, p.high, p.power) for p in parts), strict=True))
    return Seen(np.minimum(lows.min(axis=0), 0), np.maximum(highs.max(axis=0), 0), powers.mean(axis=0))


def _kernel(layer: Any) -> Any:
    """The kernel that reads the layer's input."""
    return layer.depthwise_kernel if type(layer).__name__ == "SeparableConv2D" else layer.kernel


def _by_input(call: Call) -> Floats:
    """The kernel as (taps, inputs of a group, groups, outputs of a group); each depthwise channel is a group."""
    kernel = np.asarray(_kernel(call.layer), np.float64)
    if call.kind == "Dense":
        return kernel[np.newaxis, :, np.newaxis]
    if call.kind == "Conv2D":
        return kernel.reshape(-1, kernel.shape[2], call.layer.groups, kernel.shape[3] // call.layer.groups)
    return kernel.reshape(-1, 1, *kernel.shape[2:])


def _weights(call: Call) -> Weights:
    kernel = np.abs(_by_input(call))
    kernel /= np.maximum(kernel.max(axis=(0, 1), keepdims=True), np.finfo(float).tiny)
    return Weights(kernel.max(axis=0), np.square(kernel).sum(axis=(0, 3)), len(kernel))


def choose_factors(seen: Seen, weights: Weights) -> Floats | None:
    """Divisors of the first layer's output channels (C,); None where none lower the noise."""
    width = np.maximum(seen.high, -seen.low)
    largest = weights.flat(weights.largest.max(axis=2))
    living = (width > DEAD * width.max()) & (largest > DEAD)
    if not living.any():
        return None
    ones = np.ones_like(width)
    best, least = None, noise(ones, seen, weights)
    for power in POWERS:
        log = power * np.log(width[living]) - (1 - power) * np.log(largest[living])
        factors = ones.copy()
        factors[living] = np.clip(np.exp(log - log.mean()), SMALLEST, LARGEST)
        now = noise(factors, seen, weights)
        if now < least:
            best, least = factors, now
    return best


def noise(factors: Floats, seen: Seen, weights: Weights) -> float:
    """Variance that int8 rounding adds to the second layer's outputs with these factors, summed over channels.

    Rounding errors of activations and weights are taken as independent and uniform over a step.
    """
    shaped = weights.shaped(factors)
    activation_step = ((seen.high / factors).max() - (seen.low / factors).min()) / 255
    weight_steps = (weights.largest * shaped[..., np.newaxis]).max(axis=0) / 127
    from_activations = activation_step**2 * (weights.energy * shaped**2).sum()
    power = weights.taps * (weights.shaped(seen.power) / shaped**2).sum(axis=0)
    return float(from_activations + (weight_steps**2 * power[:, np.newaxis]).sum()) / 12


def _rescale(pair: Pair, factors: NDArray[np.float32]) -> None:
    """Divide the first layer's output channels, and multiply the second layer's weights on them."""
    first, kind = pair.first, type(pair.first).__name__
    kernel = first.pointwise_kernel if kind == "SeparableConv2D" else first.kernel
    kernel.assign(np.asarray(kernel) / (factors.reshape(kernel.shape[2:]) if kind == "DepthwiseConv2D" else factors))
    means = [norm.moving_mean for norm in pair.norms]
    offsets = [norm.beta for norm in pair.norms if norm.center]
    for shift in [*means, *offsets, *([] if first.bias is None else [first.bias])]:
        shift.assign(np.asarray(shift) / factors)
    taken, by_input = _kernel(pair.second.layer), _by_input(pair.second)
    shaped = factors.reshape(by_input.shape[2], by_input.shape[1]).T
    taken.assign((by_input * shaped[..., np.newaxis]).reshape(taken.shape))
