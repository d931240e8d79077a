"""Ranges for the activations of a LiteRT network: those of its values on calibration cells, and narrower ones.

TensorFlow's calibrator is slow, and stretches ranges: a sum or product may overwrite one of its inputs, and is then
recorded as that input's values too. The input's scaling and residual branches come out up to twice too wide. The ranges
here are the tensors' own.

From the smallest value to the largest, one rare extreme costs all others their resolution: 256 steps reach from end to
end. ``with_ranges`` chooses by how often each value comes, and what lies outside saturates:

percentile  what keeps 99.99 % of the values, one of the percentiles of Wu et al. ("Integer quantization for deep
            learning inference", arXiv:2004.09602, 2020): with much less, a cell's rare features go first.
mse         what has the least squared error, of rounding and of saturation together (Banner et al., "Post training
            4-bit quantization of convolutional networks for rapid deployment", NeurIPS 2019, on the histogram itself
            in place of a fitted Laplace distribution).
entropy     what keeps most of the distribution, by Kullback-Leibler divergence (Migacz, "8-bit inference with
            TensorRT", GTC 2017).

Zeros are not counted: 0 is one of the 256 values whatever the range, and after a ReLU they are most of a map. Nor is
what repeats the pixel beside it: a cell's black surroundings come as one value a channel, and where such spikes happen
to fall between the steps would decide, in "entropy", over all the rest.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.engine.litert import load_interpreter
from bloodedge_convert.job import Method, Report, counted
from bloodedge_convert.litert.activations import schema, watch
from bloodedge_convert.litert.bias import BIASED, spread

BINS = 2**16
"""Of a histogram: enough for a range 1000 times too wide."""
STEPS = 255
"""Between the least and the greatest int8 value."""
WITHIN = 0.9999
"""Share of the values that "percentile" keeps; of the others half are beyond either end."""
FEWEST_VALUES = 10_000
"""A tensor with fewer has no distribution to go by: of these, 99.99 % leave out one."""
NARROWEST = 1e-6
"""A smaller range belongs to a tensor that is always 0, and stays as it is: XNNPACK ends the process on a step of 0."""
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
        values = np.atleast_2d(values)
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


def with_extremes(calibrated: bytes, float_model: bytes, images: Images, report: Report) -> bytes:
    """The calibrated ``.tflite`` with each activation's range from its smallest value over ``images`` to its largest.

    float_model: the network in float32; both come from the same graph. images: network inputs uint8 (N, H, W, 3) RGB.
    """
    data = bytearray(calibrated)
    ends = _ends(data, 0.0)
    network, _ = load_interpreter(float_model, threads=1)
    numbers = {details["name"]: int(details["index"]) for details in network.get_tensor_details()}
    look = watch(float_model, [numbers[name] for name in ends])
    low, high = np.zeros(len(ends)), np.zeros(len(ends))
    for image in counted(images, "Calibrating: litert int8", report):
        values = look(image)
        low = np.minimum(low, [value.min() for value in values])
        high = np.maximum(high, [value.max() for value in values])
    for (least, most), smallest, largest in zip(ends.values(), low, high, strict=True):
        if largest - smallest >= NARROWEST:
            least[0], most[0] = smallest, largest
    return bytes(data)


def with_ranges(calibrated: bytes, float_model: bytes, images: Images, method: Method, report: Report) -> bytes:
    """The calibrated ``.tflite`` with the ranges of its activations chosen by ``method``, one of RANGES.

    float_model: the network in float32; both come from the same graph. images: calibration inputs uint8 (N, H, W, 3)
    RGB, some of which are used, evenly spread. The network's input and output keep their ranges, and so do tensors with
    few values. What comes before the first layer with weights is still the picture: of that nothing is cut off.
    """
    data, images = bytearray(calibrated), spread(images)
    ends = _ends(data, NARROWEST)
    network, _ = load_interpreter(float_model, threads=1, keep_tensors=True)
    picture, features = ({index: name for index, name in part.items() if name in ends} for part in _parts(network))
    found = dict.fromkeys(picture.values(), (0.0, 0.0))
    histograms = {name: Histogram(*(float(end[0]) for end in ends[name])) for name in features.values()}
    _run(network, _every_byte(images[0]))
    _widen(found, network, picture)
    for image in counted(images, f"Ranges by {method}: litert int8", report):
        _run(network, image)
        _widen(found, network, picture)
        for index, name in features.items():
            histograms[name].add(network.get_tensor(index))
    for name, histogram in histograms.items():
        if histogram.values >= FEWEST_VALUES:
            found[name] = SEARCHES[method](*histogram.occupied())
    for name, (low, high) in found.items():
        if high - low >= NARROWEST:
            ends[name][0][0], ends[name][1][0] = low, high
    return bytes(data)


def _ends(data: bytearray, narrowest: float) -> dict[str, Ends]:
    """The ranges in a calibrated network that are no narrower, by tensor name."""
    graph = schema().Model.GetRootAs(data, 0).Subgraphs(0)
    tensors = [graph.Tensors(index) for index in range(graph.TensorsLength())]
    found = {}
    for tensor in tensors:
        range_ = tensor.Quantization()
        if range_ is not None and range_.MinLength() == 1 == range_.MaxLength():
            low, high = range_.MinAsNumpy(), range_.MaxAsNumpy()
            if max(high[0], 0) - min(low[0], 0) >= narrowest:
                found[tensor.Name().decode()] = (low, high)
    return found


def _parts(network: Any) -> tuple[dict[int, str], dict[int, str]]:
    """(still the picture, later activations) by tensor number, without the network's input and output."""
    names = {int(details["index"]): details["name"] for details in network.get_tensor_details()}
    ports = {int(details["index"]) for details in (*network.get_input_details(), *network.get_output_details())}
    activations = {int(details["index"]) for details in network.get_input_details()}
    picture = set(activations)
    for op in network._get_ops_details():
        made = {int(index) for index in op["outputs"]}
        if op["op_name"] not in BIASED and picture >= activations.intersection(int(index) for index in op["inputs"]):
            picture |= made
        activations |= made
    return {i: names[i] for i in picture - ports}, {i: names[i] for i in activations - picture - ports}


def _every_byte(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A grey image of the same shape with all the values that a camera can give."""
    greys = np.resize(np.arange(256, dtype=np.uint8), image.shape[:2])
    return np.repeat(greys[..., np.newaxis], image.shape[2], axis=2)


def _widen(found: dict[str, tuple[float, float]], network: Any, tensors: dict[int, str]) -> None:
    """Widen the ranges in ``found`` to hold the values that the network has just computed."""
    for index, name in tensors.items():
        values, (low, high) = network.get_tensor(index), found[name]
        found[name] = min(low, float(values.min())), max(high, float(values.max()))


def _run(network: Any, image: NDArray[np.uint8]) -> None:
    network.set_tensor(network.get_input_details()[0]["index"], image[np.newaxis])
    network.invoke()


def _percentile(counts: Floats, edges: Floats) -> tuple[float, float]:
    """The narrowest range that holds 0, with at most half of ``1 - WITHIN`` of the values beyond either end."""
    below, tail = counts.cumsum(), (1 - WITHIN) / 2 * counts.sum()
    first, last = np.searchsorted(below, tail, side="right"), np.searchsorted(below, below[-1] - tail)
    return min(float(edges[first]), 0.0), max(float(edges[last + 1]), 0.0)


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
