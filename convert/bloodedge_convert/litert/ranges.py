"""Ranges for the activations of a LiteRT network: those of its values on calibration cells, and narrower ones.

TensorFlow's calibrator is slow, and it stretches ranges: a sum or product may overwrite one of its inputs, and is then
recorded as that input's values too. The ranges of scaling and residual branches come out up to twice too wide. The
ranges here are the tensors' own.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.engine.litert import load_interpreter
from bloodedge_convert.cells.calibration_set import spread
from bloodedge_convert.job import Method, Report, counted
from bloodedge_convert.litert.activations import WITH_WEIGHTS, schema, watch
from bloodedge_convert.range_search import Histogram

MIN_RANGE = 1e-6
"""A tensor with a smaller range is always 0 and keeps it: XNNPACK ends the process on a step of 0."""

Images = NDArray[np.uint8]
Range = tuple[float, float]
RangeViews = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Writable views of a tensor's min and max in the file, each of one value."""


def with_extremes(calibrated: bytes, float_model: bytes, images: Images, report: Report) -> bytes:
    """The calibrated ``.tflite`` with each activation's range from its smallest value over ``images`` to its largest.

    float_model: the network in float32; both come from the same graph. images: network inputs uint8 (N, H, W, 3) RGB.
    """
    data = bytearray(calibrated)
    views = _range_views(data, 0.0)
    network, _ = load_interpreter(float_model, threads=1)
    numbers = {details["name"]: int(details["index"]) for details in network.get_tensor_details()}
    look = watch(float_model, [numbers[name] for name in views])
    low, high = np.zeros(len(views)), np.zeros(len(views))
    for image in counted(images, "Calibrating: litert int8", report):
        values = look(image)
        low = np.minimum(low, [value.min() for value in values])
        high = np.maximum(high, [value.max() for value in values])
    for (least, most), smallest, largest in zip(views.values(), low, high, strict=True):
        if largest - smallest >= MIN_RANGE:
            least[0], most[0] = smallest, largest
    return bytes(data)


def with_ranges(calibrated: bytes, float_model: bytes, images: Images, method: Method, report: Report) -> bytes:
    """The calibrated ``.tflite`` with the ranges of its activations chosen by ``method``, one of range_search.SEARCHES.

    float_model: the network in float32; both come from the same graph. images: calibration inputs uint8 (N, H, W, 3)
    RGB, some of which are used, evenly spread. The network's input and output keep their ranges, and so do tensors with
    few values. Tensors before the first layer with weights are still the picture, of which nothing is cut off.
    """
    data, images = bytearray(calibrated), spread(images)
    views = _range_views(data, MIN_RANGE)
    network, _ = load_interpreter(float_model, threads=1, keep_tensors=True)
    picture, features = ({index: name for index, name in part.items() if name in views} for part in _parts(network))
    found = dict.fromkeys(picture.values(), (0.0, 0.0))
    histograms = {name: Histogram(*(float(end[0]) for end in views[name])) for name in features.values()}
    _run(network, _every_byte(images[0]))
    _widen(found, network, picture)
    for image in counted(images, f"Ranges by {method}: litert int8", report):
        _run(network, image)
        _widen(found, network, picture)
        for index, name in features.items():
            histograms[name].add(network.get_tensor(index))
    found |= {name: chosen for name, one in histograms.items() if (chosen := one.search(method)) is not None}
    for name, (low, high) in found.items():
        if high - low >= MIN_RANGE:
            views[name][0][0], views[name][1][0] = low, high
    return bytes(data)


def _range_views(data: bytearray, narrowest: float) -> dict[str, RangeViews]:
    """The ranges in a calibrated network that are at least so wide, by tensor name."""
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
    """(tensors that are still the picture, later activations) by number, without the network's input and output."""
    names = {int(details["index"]): details["name"] for details in network.get_tensor_details()}
    ports = {int(details["index"]) for details in (*network.get_input_details(), *network.get_output_details())}
    activations = {int(details["index"]) for details in network.get_input_details()}
    picture = set(activations)
    for op in network._get_ops_details():
        made = {int(index) for index in op["outputs"]}
        if op["op_name"] not in WITH_WEIGHTS and picture >= activations.intersection(
            int(index) for index in op["inputs"]
        ):
            picture |= made
        activations |= made
    return {i: names[i] for i in picture - ports}, {i: names[i] for i in activations - picture - ports}


def _every_byte(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A grey image of the same shape that holds every value of a byte."""
    greys = np.resize(np.arange(256, dtype=np.uint8), image.shape[:-1])
    return np.repeat(greys[..., np.newaxis], image.shape[-1], axis=-1)


def _widen(found: dict[str, Range], network: Any, tensors: dict[int, str]) -> None:
    """Widen the ranges in ``found`` to the values that the network has just computed."""
    for index, name in tensors.items():
        values, (low, high) = network.get_tensor(index), found[name]
        found[name] = min(low, float(values.min())), max(high, float(values.max()))


def _run(network: Any, image: NDArray[np.uint8]) -> None:
    network.set_tensor(network.get_input_details()[0]["index"], image[np.newaxis])
    network.invoke()
