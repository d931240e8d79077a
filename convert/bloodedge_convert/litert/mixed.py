"""Mixed precision: the few layers of a LiteRT network that int8 harms most stay in float32.

They are found by measurement. The layers that add most noise (litert.layer_noise) return to float32 one at a time, and
what counts is how much nearer the blast probability comes to the float model's: the decision may hardly depend on a
noisy layer.

The output of a single float32 layer is rounded for the next layer, so this helps where its weights do not fit int8.
Where its output does not (channels of unlike ranges), the layers that read it must be in float32 too: no rounding lies
between two float32 layers. That is tried where the layer alone gains little.

Biases are corrected before each measurement, on fewer images than at the end. Otherwise their shifts hide the rest: for
two in five of the layers tried on a MobileNetV2 and an EfficientNet-B0 the gain had the other sign.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable

import numpy as np
from numpy.typing import NDArray

from bloodedge.config import Strict
from bloodedge.decision.thresholds import is_fault
from bloodedge.engine.litert import LiteRTEngine, load_interpreter
from bloodedge_convert.cells.calibration_set import spread
from bloodedge_convert.job import Report
from bloodedge_convert.litert.activations import WITH_WEIGHTS
from bloodedge_convert.litert.bias import correct_biases
from bloodedge_convert.litert.layer_noise import layer_noise, short
from bloodedge_convert.litert.write import quantise

CANDIDATES = 12
"""How many layers are tried."""
MOST_LAYERS = 8
"""Most outputs in float32; with more, little would be left of int8's gain."""
LEAST_GAIN = 0.05
"""Least gain, as a share of the distance, for a layer to return to float32; smaller gains depend on the images that
correct biases."""
BIAS_IMAGES = 16
"""Images on which the biases of each measured network are corrected."""
THREADS = 2
STEP = "Choosing float32 layers: litert int8"

Images = NDArray[np.uint8]
Distance = Callable[[Collection[str]], float]
"""The network's distance from the float model with these outputs computed in float32."""


class Sensitivity(Strict):
    """The gain of a layer in float32."""

    name: str
    outputs: list[str]
    """Outputs then computed in float32: the layer's own and, where that helps, those of its readers."""
    gain: float
    """How much the mean distance of the blast probability from the float model's shrinks."""

    @property
    def worth(self) -> float:
        """The gain per output that is no longer int8."""
        return self.gain / len(self.outputs)


class Mixed(Strict):
    """The layers to leave in float32, and the measurements behind that."""

    layers: list[str]
    """Names of their outputs, as litert.write.quantise takes them."""
    distance_before: float
    """Mean distance of the blast probability from the float model's, on the trial cells, with all layers in int8."""
    distance_after: float
    sensitivities: list[Sensitivity]
    """The layers that were tried, the most worth first."""


def find_float_layers(
    calibrated: bytes, plain: bytes, images: Images, trial: Images, max_distance: float, report: Report
) -> Mixed:
    """Return layers to float32 until the distance is ``max_distance``, no layer gains, or MOST_LAYERS are reached.

    calibrated, plain: ``.tflite`` files of the same graph, with ranges and in float32. images: calibration inputs, to
    correct biases on; trial: cells to measure on; both uint8 (N, H, W, 3) RGB.
    """
    distance = _distance_from(calibrated, plain, images, trial)
    before = distance([])
    candidates = _candidates(calibrated, plain, images) if before > max_distance else []
    sensitivities = []
    for number, (name, outputs, readers) in enumerate(candidates, 1):
        sensitivities.append(_sensitivity(name, outputs, readers, before, distance))
        report(STEP, number, len(candidates))
    sensitivities.sort(key=lambda sensitivity: -sensitivity.worth)
    layers, after = _chosen(sensitivities, before, max_distance, distance)
    return Mixed(layers=layers, distance_before=before, distance_after=after, sensitivities=sensitivities)


def _distance_from(calibrated: bytes, plain: bytes, images: Images, trial: Images) -> Distance:
    """A function that measures the mean distance of the blast probability from the float model's."""
    images = spread(images)
    images = images[:: max(1, len(images) // BIAS_IMAGES)][:BIAS_IMAGES]

    reference = LiteRTEngine(plain, THREADS).predict(trial)

    def distance(float_outputs: Collection[str]) -> float:
        int8 = correct_biases(plain, quantise(calibrated, float_outputs), images, lambda *_: None)
        outputs = LiteRTEngine(int8, THREADS).predict(trial)
        apart = np.where(is_fault(outputs), 1.0, np.abs(outputs - reference)[:, 1])
        return float(apart.mean())

    return distance


def _candidates(calibrated: bytes, plain: bytes, images: Images) -> list[tuple[str, list[str], list[str]]]:
    """(layer, names of its outputs, names of its readers' outputs) of the layers that add most noise."""
    network, _ = load_interpreter(calibrated, threads=1, keep_tensors=True)
    names = {int(details["index"]): details["name"] for details in network.get_tensor_details()}
    ops = network._get_ops_details()
    readers, outputs = defaultdict(list), defaultdict(list)
    for op in ops:
        made = names[int(op["outputs"][0])]
        for index in op["inputs"]:
            readers[names.get(int(index), "")].append(made)
        if op["op_name"] in WITH_WEIGHTS:
            outputs[short(made)].append(made)
    added: dict[str, float] = defaultdict(float)
    for layer in layer_noise(plain, quantise(calibrated), images):
        added[layer.name] = max(added[layer.name], layer.added)
    noisiest = sorted(outputs.keys() & added.keys(), key=lambda name: (-added[name], name))[:CANDIDATES]
    return [(name, outputs[name], _joined(readers[output] for output in outputs[name])) for name in noisiest]


def _sensitivity(name: str, outputs: list[str], readers: list[str], before: float, distance: Distance) -> Sensitivity:
    """The gain of a layer, alone or, where that is little, with its readers."""
    alone = Sensitivity(name=name, outputs=outputs, gain=before - distance(outputs))
    if alone.gain >= LEAST_GAIN * before:
        return alone
    more = _joined([outputs, readers])
    together = Sensitivity(name=name, outputs=more, gain=before - distance(more))
    return together if together.gain > alone.gain else alone


def _chosen(
    sensitivities: Iterable[Sensitivity], before: float, max_distance: float, distance: Distance
) -> tuple[list[str], float]:
    """Outputs to compute in float32, by worth and as long as each gains, and the resulting distance."""
    layers: list[str] = []
    after = before
    for sensitivity in sensitivities:
        more = _joined([layers, sensitivity.outputs])
        if after <= max_distance:
            break
        if len(more) > MOST_LAYERS or sensitivity.gain < LEAST_GAIN * before:
            continue
        found = distance(more) if layers else before - sensitivity.gain
        if after - found >= LEAST_GAIN * before:
            layers, after = more, found
    return layers, after


def _joined(lists: Iterable[Iterable[str]]) -> list[str]:
    """The names of all lists, each once."""
    return list(dict.fromkeys(name for names in lists for name in names))
