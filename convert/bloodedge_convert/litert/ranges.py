"""Narrower ranges for the activations of a calibrated LiteRT network.

Calibration gives each activation the range from its smallest to its largest value. One rare extreme value then costs
all others their resolution: 256 steps reach from end to end. Here a range is chosen by how often each value comes, and
what lies outside saturates:

percentile  what keeps 99.99 % of the values, the middle of the percentiles that Wu et al. try ("Integer quantization
            for deep learning inference", arXiv:2004.09602, 2020); they find 99.9 % too little for some networks.
mse         what has the least squared error, of rounding and of saturation together (Banner et al., "Post training
            4-bit quantization of convolutional networks for rapid deployment", NeurIPS 2019, on the histogram itself
            in place of a fitted Laplace distribution).
entropy     what keeps most of the distribution, by Kullback-Leibler divergence (Migacz, "8-bit inference with
            TensorRT", GTC 2017).

Zeros are not counted: 0 is one of the 256 values whatever the range, and after a ReLU they are most of a map. Nor is
what repeats the pixel beside it: a cell's black surroundings come as one value a channel, and where such spikes happen
to fall between the steps would decide, in "entropy", over all the rest.

TensorFlow's calibrator also stretches ranges: a sum or product may overwrite its first input, and is recorded as that
input's values too (ranges of residual branches come out up to twice too wide). The values here are the layer's own.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.engine.litert import load_interpreter
from bloodedge_convert.job import Method, Report, counted
from bloodedge_convert.litert.bias import BIASED, spread

BINS = 2**16
"""Of a histogram: enough for a range 1000 times too wide."""
STEPS = 255
"""Between the least and the greatest int8 value."""
WITHIN = 0.9999
"""Share of the values that "percentile" keeps; of the others half are off either end."""
FEWEST_VALUES = 10_000
"""A tensor with fewer has no distribution to go by: of these, 99.99 % leave out one."""
NARROWEST = 1e-6
"""A calibrated range smaller than this belongs to a tensor that is always 0."""
CANDIDATES = 128
"""Ends of ranges that are tried, each a few per cent nearer to 0 than the one before."""
FINE = 4
"""Bins in a step by which "entropy" tells what rounding takes away."""
NEVER = 1e-9
"""The share, for "entropy", of what rounding leaves none of."""

Images = NDArray[np.uint8]
Floats = NDArray[np.float64]
Ends = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Writable views of a tensor's min and max, each of one value."""


class Histogram:
    """How often a tensor has which value, in BINS equal bins over its calibrated range and 0."""

    def __init__(self, low: float, high: float) -> None:
        self._low, self._high = min(low, 0.0), max(high, 0.0)
        self._counts = np.zeros(BINS, np.int64)

    def add(self, values: NDArray[np.float32]) -> None:
        """Count ``values`` (..., W, C) but zeros and repeated pixels.

        What lies outside the range, which other images may have given, falls into the bins at its ends.
        """
        counted = values != 0
        counted[..., 1:, :] &= values[..., 1:, :] != values[..., :-1, :]
        values = values[counted]
        bins = ((values - self._low) * (BINS / (self._high - self._low))).clip(0, BINS - 1).astype(np.int32)
        self._counts += np.bincount(bins, minlength=BINS)

    @property
    def values(self) -> int:
        """How many were counted."""
        return int(self._counts.sum())

    def occupied(self) -> tuple[Floats, Floats]:
        """(counts (bins,), edges (bins + 1,)) from the first bin with a value, or 0, to the last, or 0."""
        edges = np.linspace(self._low, self._high, BINS + 1)
        held = np.flatnonzero(self._counts)
        first = min(held[0], np.searchsorted(edges, 0.0, side="right") - 1)
        last = max(held[-1] + 1, np.searchsorted(edges, 0.0))
        return self._counts[first:last].astype(np.float64), edges[first : last + 1]


def with_ranges(calibrated: bytes, float_model: bytes, images: Images, method: Method, report: Report) -> bytes:
    """The calibrated ``.tflite`` with the ranges of its activations chosen by ``method``, one of RANGES.

    float_model: the network in float32; both come from the same graph. images: calibration inputs uint8 (N, H, W, 3)
    RGB, some of which are used, evenly spread. The network's input and output and all before the first layer with
    weights, which is still the picture, keep their ranges; so do tensors with few values.
    """
    data = bytearray(calibrated)
    ends = _ends(data)
    for name, histogram in _histograms(float_model, ends, spread(images), method, report).items():
        if histogram.values >= FEWEST_VALUES:
            low, high = SEARCHES[method](*histogram.occupied())
            ends[name][0][0], ends[name][1][0] = min(low, 0.0), max(high, 0.0)
    return bytes(data)


def _ends(data: bytearray) -> dict[str, Ends]:
    """The ranges in a calibrated network that are not empty, by tensor name."""
    from tensorflow.lite.python import schema_py_generated as schema

    graph = schema.Model.GetRootAs(data, 0).Subgraphs(0)
    tensors = [graph.Tensors(index) for index in range(graph.TensorsLength())]
    found = {}
    for tensor in tensors:
        range_ = tensor.Quantization()
        if range_ is not None and range_.MinLength() == 1 == range_.MaxLength():
            low, high = range_.MinAsNumpy(), range_.MaxAsNumpy()
            if max(high[0], 0) - min(low[0], 0) >= NARROWEST:
                found[tensor.Name().decode()] = (low, high)
    return found


def _histograms(
    float_model: bytes, ends: dict[str, Ends], images: Images, method: Method, report: Report
) -> dict[str, Histogram]:
    """Histograms of the activations whose range may change, over ``images``."""
    network, _ = load_interpreter(float_model, threads=1, keep_tensors=True)
    tensors = {index: name for index, name in _changeable(network) if name in ends}
    histograms = {name: Histogram(*(float(end[0]) for end in ends[name])) for name in tensors.values()}
    source = network.get_input_details()[0]["index"]
    for image in counted(images, f"Ranges by {method}: litert int8", report):
        network.set_tensor(source, image[np.newaxis])
        network.invoke()
        for index, name in tensors.items():
            histograms[name].add(network.get_tensor(index))
    return histograms


def _changeable(network: Any) -> Iterator[tuple[int, str]]:
    """(number, name) of each activation that is neither the picture nor an output of the network."""
    names = {int(details["index"]): details["name"] for details in network.get_tensor_details()}
    outputs = {int(details["index"]) for details in network.get_output_details()}
    activations = {int(details["index"]) for details in network.get_input_details()}
    picture = set(activations)
    for op in network._get_ops_details():
        made = {int(index) for index in op["outputs"]}
        if op["op_name"] not in BIASED and picture >= activations.intersection(int(index) for index in op["inputs"]):
            picture |= made
        activations |= made
        yield from ((index, names[index]) for index in sorted(made - picture - outputs))


def _percentile(counts: Floats, edges: Floats) -> tuple[float, float]:
    """The narrowest range with at most half of ``1 - WITHIN`` of the values off either end."""
    below, tail = counts.cumsum(), (1 - WITHIN) / 2 * counts.sum()
    first, last = np.searchsorted(below, tail, side="right"), np.searchsorted(below, below[-1] - tail)
    return float(edges[first]), float(edges[last + 1])


def _mse(counts: Floats, edges: Floats) -> tuple[float, float]:
    """The range with the least squared error; rounding's is a twelfth of a step squared for each value inside."""
    values = (edges[:-1] + edges[1:]) / 2
    lows, highs = 0 - _candidates(-edges[0]), _candidates(edges[-1])
    below, saturated_below = _beyond(-values[::-1], counts[::-1], -lows)
    above, saturated_above = _beyond(values, counts, highs)
    inside = counts.sum() - np.add.outer(below, above)
    step = np.subtract.outer(-lows, -highs) / STEPS
    error = inside * step**2 / 12 + np.add.outer(saturated_below, saturated_above)
    low, high = np.unravel_index(error.argmin(), error.shape)
    return float(lows[low]), float(highs[high])


def _candidates(end: float) -> Floats:
    """Distances from 0 to end a range at, none farther than ``end``; 0 alone where there is nothing on that side."""
    return np.geomspace(end, end / 1000, CANDIDATES) if end > 0 else np.zeros(1)


def _beyond(values: Floats, counts: Floats, ends: Floats) -> tuple[Floats, Floats]:
    """For each of ``ends``: how many of ``values`` (ascending) exceed it, and the sum of their excesses squared."""
    sums = [np.append((counts * values**power)[::-1].cumsum()[::-1], 0.0) for power in range(3)]
    number, total, squares = (sum_[np.searchsorted(values, ends, side="right")] for sum_ in sums)
    return number, np.maximum(squares - 2 * ends * total + ends**2 * number, 0.0)


def _entropy(counts: Floats, edges: Floats) -> tuple[float, float]:
    """The range, cut at one distance from 0 on both sides, whose rounded distribution is nearest to that of the values.

    Unlike Migacz's, every candidate is divided into as many bins: what is lost can then be compared between them.
    """
    below = np.concatenate([[0.0], counts.cumsum()])
    best, chosen = np.inf, (float(edges[0]), float(edges[-1]))
    for reach in _candidates(max(-edges[0], edges[-1])):
        low, high = max(float(edges[0]), -float(reach)), min(float(edges[-1]), float(reach))
        cuts = np.linspace(low, high, STEPS * FINE + 1)
        if cuts[1] - cuts[0] < edges[1] - edges[0]:
            break
        divergence = _divergence(np.interp(cuts, edges, below), float(below[-1]))
        if divergence < best:
            best, chosen = divergence, (low, high)
    return chosen


def _divergence(below: Floats, total: float) -> float:
    """Kullback-Leibler divergence of a rounded distribution from the one that saturates at the ends of its range.

    below: how many of ``total`` values lie below the edges of the range's bins, FINE of which are rounded to one value.
    """
    inside = np.diff(below)
    wanted = inside / total
    wanted[0] += below[0] / total
    wanted[-1] += 1 - below[-1] / total
    steps = inside.reshape(STEPS, FINE).mean(axis=1) / max(inside.sum(), 1.0)
    rounded = np.maximum(np.repeat(steps, FINE), NEVER)
    return float(np.sum(wanted * np.log(np.maximum(wanted, NEVER) / rounded)))


SEARCHES: dict[Method, Callable[[Floats, Floats], tuple[float, float]]] = {
    "percentile": _percentile,
    "mse": _mse,
    "entropy": _entropy,
}
RANGES: tuple[Method, ...] = tuple(SEARCHES)
"""The methods that choose ranges."""
