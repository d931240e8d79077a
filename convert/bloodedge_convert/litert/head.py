"""The head of a finished LiteRT network: the fully connected layers whose sum is the logits, in float in every form.

What they take are the features that fine-tuning fits a new head to. The new head's numbers take the place of the old
ones in the file; everything else, its latency too, stays as it is.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.engine.litert import load_interpreter
from bloodedge_convert.litert.activations import schema, watch

SUMS = {"ADD", "SOFTMAX", "RESHAPE", "QUANTIZE", "DEQUANTIZE", "LOGISTIC"}
FLOATS = {"FLOAT32": np.float32, "FLOAT16": np.float16}


@dataclass(frozen=True)
class Layer:
    """One fully connected layer, by the numbers of its tensors."""

    features: int
    kernel: int
    """The constant, of (2, width) in float32 or float16."""
    bias: int


class LiteRTHead:
    """The head of a ``.tflite`` file; layers in the order in which the file has them."""

    def __init__(self, model: bytes) -> None:
        self.model = model
        self._parts = _parts(model)
        constants = _constants(bytearray(model))
        self.kernels = [_difference(constants[layer.kernel]) for layer in self._parts[0]]
        """Of each layer of the first linear part, (width,): what its features add to the log-odds."""
        self.bias = float(sum(_difference(constants[layer.bias].reshape(2, 1))[0] for layer in self._parts[0]))
        """Of the first linear part."""

    def features(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """What each layer takes, (N, width), of network inputs uint8 (N, *ImagingSpec.input_shape)."""
        look = watch(self.model, [layer.features for layer in self._parts[0]])
        seen = [look(image) for image in images]
        return [np.concatenate(values).astype(np.float32) for values in zip(*seen, strict=True)]

    def replaced(self, kernels: list[list[NDArray[np.float64]]], biases: list[float]) -> bytes:
        """The file with another head of as many linear parts: of each a kernel (width,) for each layer, and a bias."""
        data = bytearray(self.model)
        constants = _constants(data)
        for layers, parts, bias, signs in zip(self._parts, kernels, biases, part_signs(len(kernels)), strict=True):
            for layer, kernel in zip(layers, parts, strict=True):
                constants[layer.kernel][:] = signs[:, np.newaxis] * kernel
                constants[layer.bias][:] = signs * bias / len(layers)
        return bytes(data)


def part_signs(parts: int) -> list[NDArray[np.float64]]:
    """What a linear part's log-odds are multiplied by in its two outputs: halves, but for a gate, which is third."""
    return [np.array([-0.5, 0.5]), np.array([-0.5, 0.5]), np.array([1.0, 1.0])][:parts]


def _parts(model: bytes) -> list[list[Layer]]:
    """The layers of each linear part of the head, as ``Rule.linear`` has them.

    The first are those from which the output comes by sums and a softmax alone. Where the head adds a product, its
    factor behind a logistic function is the gate, and the other one what is added. A part has a layer for each feature
    map, in the first part's order.
    """
    network, _ = load_interpreter(model, threads=1, keep_tensors=True)
    made = {int(output): op for op in network._get_ops_details() for output in op["outputs"]}

    def name(tensor: int) -> str:
        return str(made[tensor]["op_name"]) if tensor in made else ""

    def source(tensor: int) -> int:
        """What an operator that only widens or rescales numbers takes."""
        while name(tensor) in {"DEQUANTIZE", "QUANTIZE"}:
            tensor = int(made[tensor]["inputs"][0])
        return tensor

    waiting = [(int(details["index"]), 0) for details in network.get_output_details()]
    found: list[dict[int, Layer]] = [{}, {}, {}]
    while waiting:
        tensor, part = waiting.pop()
        inputs = [int(one) for one in made[tensor]["inputs"]] if tensor in made else []
        if name(tensor) == "FULLY_CONNECTED":
            found[part][source(inputs[0])] = Layer(inputs[0], source(inputs[1]), source(inputs[2]))
        elif name(tensor) in SUMS:
            waiting += [(one, part) for one in inputs]
        elif name(tensor) == "MUL" and "LOGISTIC" in {name(one) for one in inputs}:
            waiting += [(one, 2 if name(one) == "LOGISTIC" else 1) for one in inputs]
    order = sorted(found[0], key=lambda features: found[0][features].features)
    return [[layers[features] for features in order] for layers in found if layers]


def _constants(data: bytearray) -> dict[int, NDArray[Any]]:
    """Writable views of the float constants in ``data``, by tensor number."""
    model = schema().Model.GetRootAs(data, 0)
    graph, found = model.Subgraphs(0), {}
    types = {getattr(schema().TensorType, name): dtype for name, dtype in FLOATS.items()}
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        buffer = model.Buffers(tensor.Buffer())
        if tensor.Type() in types and buffer.DataLength():
            found[index] = buffer.DataAsNumpy().view(types[tensor.Type()]).reshape(tensor.ShapeAsNumpy())
    return found


def _difference(kernel: NDArray[Any]) -> NDArray[np.float64]:
    normal, blast = kernel.astype(np.float64)
    return np.asarray(blast - normal)
