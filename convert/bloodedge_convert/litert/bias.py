"""Bias correction of an int8 LiteRT network, on the finished file.

Rounded weights shift a layer's outputs by a constant wherever its inputs are constant, and most of a cell's picture is
black surroundings. These shifts add up over the layers and move the decision. So layer by layer, after those before it,
each bias is moved until the mean output per channel is the float network's (empirical bias correction; Nagel et al.,
"Data-free quantization through weight equalization and bias correction", ICCV 2019). Weights and latency stay as they
are.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.engine.litert import load_interpreter
from bloodedge_convert.cells.calibration_set import spread
from bloodedge_convert.litert.activations import WITH_WEIGHTS, schema, watch

GROUP_BYTES = 256 * 2**20
"""Bytes of the float network's values kept in memory at a time."""
MIN_VALUES = 16
"""A channel with fewer values that its activation does not cut off keeps its bias."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    """A layer with a bias: the numbers of its tensors in both networks, and its quantisation parameters."""

    float_output: int
    int8_output: int
    values: int
    """How many values it gives for one image."""
    bias: int
    bias_scales: Floats
    """1 where the layer is in float32, as its output's ``scale``."""
    scale: float
    zero: int


def correct_biases(
    float_model: bytes, int8_model: bytes, images: NDArray[np.uint8], report: Callable[[int, int], None]
) -> bytes:
    """The int8 ``.tflite`` with corrected biases; both networks come from the same graph.

    images: calibration inputs uint8 (N, H, W, 3) RGB, some of which are used, evenly spread.
    """
    images = spread(images)
    data = bytearray(int8_model)
    biases = _bias_arrays(data)
    layers = [layer for layer in _layers(float_model, int8_model) if layer.bias in biases]
    done = 0
    for group in _groups(layers, len(images)):
        wanted = _outputs(float_model, [layer.float_output for layer in group], images)
        for layer in group:
            found = _outputs(bytes(data), [layer.int8_output], images).pop()
            found = (found.astype(np.float32) - layer.zero) * np.float32(layer.scale)
            bias = biases[layer.bias]
            moved = bias + _shift(wanted.pop(0), found) / layer.bias_scales
            bias[:] = moved if bias.dtype == np.float32 else np.rint(moved)
            done += 1
            report(done, len(layers))
    return bytes(data)


def _groups(layers: Sequence[Layer], images: int) -> Iterator[list[Layer]]:
    """The layers in order, in groups whose float values for so many images take about GROUP_BYTES."""
    group: list[Layer] = []
    for layer in layers:
        if group and sum(member.values for member in (*group, layer)) * images * 4 > GROUP_BYTES:
            yield group
            group = []
        group.append(layer)
    if group:
        yield group


def _bias_arrays(data: bytearray) -> dict[int, NDArray[Any]]:
    """Writable views of the biases in ``data``, int32 or float32, by tensor number, unless several share them."""
    model = schema().Model.GetRootAs(data, 0)
    graph = model.Subgraphs(0)
    uses = Counter(graph.Tensors(i).Buffer() for i in range(graph.TensorsLength()))
    views = {}
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        buffer = model.Buffers(tensor.Buffer())
        dtype = {schema().TensorType.INT32: np.int32, schema().TensorType.FLOAT32: np.float32}.get(tensor.Type())
        if dtype is not None and tensor.ShapeLength() == 1 and uses[tensor.Buffer()] == 1 and buffer.DataLength():
            views[index] = buffer.DataAsNumpy().view(dtype)
    return views


def _layers(float_model: bytes, int8_model: bytes) -> list[Layer]:
    """Layers with a bias that both networks have, in order of computation."""
    float_network, _ = load_interpreter(float_model, threads=1, keep_tensors=True)
    network, _ = load_interpreter(int8_model, threads=1, keep_tensors=True)
    by_name = {d["name"]: int(d["index"]) for d in float_network.get_tensor_details()}
    tensors = {d["index"]: d for d in network.get_tensor_details()}
    found = []
    for op in network._get_ops_details():
        inputs, output = [int(i) for i in op["inputs"]], tensors[int(op["outputs"][0])]
        if op["op_name"] in WITH_WEIGHTS and len(inputs) > 2 and inputs[2] in tensors and output["name"] in by_name:
            found.append(
                Layer(
                    float_output=by_name[output["name"]],
                    int8_output=int(output["index"]),
                    values=int(np.prod(output["shape"])),
                    bias=inputs[2],
                    bias_scales=_or_one(tensors[inputs[2]]["quantization_parameters"]["scales"]),
                    scale=output["quantization"][0] or 1.0,
                    zero=output["quantization"][1],
                )
            )
    return found


def _or_one(scales: Floats) -> Floats:
    return scales if len(scales) else np.ones(1, np.float32)


def _outputs(model: bytes, tensors: Sequence[int], images: NDArray[np.uint8]) -> list[NDArray[Any]]:
    """Each tensor's values (values, channels) over ``images``."""
    look = watch(model, tensors)
    seen = [[value.reshape(-1, value.shape[-1]) for value in look(image)] for image in images]
    return [np.concatenate(values) for values in zip(*seen, strict=True)]


def _shift(wanted: Floats, found: Floats) -> NDArray[np.float64]:
    """Mean of float minus int8 per channel, over the values that a bias moves: those not cut off by ReLU or ReLU6."""
    low, high = wanted.min(), wanted.max()
    cut_low, cut_high = low == 0 and found.min() >= 0, high == 6
    free = np.ones(wanted.shape, bool)
    for values in (wanted, found):
        if cut_low:
            free &= values > 0
        if cut_high:
            free &= values < 6
    count = free.sum(axis=0)
    total = np.where(free, wanted - found, 0).sum(axis=0, dtype=np.float64)
    return np.where(count >= MIN_VALUES, total / np.maximum(count, 1), 0.0)
