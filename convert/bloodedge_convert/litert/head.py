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
        self._layers = _layers(model)
        constants = _constants(bytearray(model))
        self.kernels = [_difference(constants[layer.kernel]) for layer in self._layers]
        """Each layer's (width,): what its features add to the log-odds."""
        self.bias = float(sum(_difference(constants[layer.bias].reshape(2, 1))[0] for layer in self._layers))

    def features(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """What each layer takes, (N, width), of network inputs uint8 (N, *ImagingSpec.input_shape)."""
        look = watch(self.model, [layer.features for layer in self._layers])
        seen = [look(image) for image in images]
        return [np.concatenate(values).astype(np.float32) for values in zip(*seen, strict=True)]

    def replaced(self, kernels: list[NDArray[np.float64]], bias: float) -> bytes:
        """The file with another head: each layer's (width,), and a bias in the layers' equal parts."""
        data = bytearray(self.model)
        constants = _constants(data)
        signs = np.array([[-0.5], [0.5]])
        for layer, kernel in zip(self._layers, kernels, strict=True):
            constants[layer.kernel][:] = signs * kernel
            constants[layer.bias][:] = signs.ravel() * bias / len(self._layers)
        return bytes(data)


def _layers(model: bytes) -> list[Layer]:
    """The layers from which the output comes by sums and a softmax alone."""
    network, _ = load_interpreter(model, threads=1, keep_tensors=True)
    made = {int(output): op for op in network._get_ops_details() for output in op["outputs"]}

    def constant(tensor: int) -> int:
        """Behind a float16 constant stands an operator that widens it."""
        return int(made[tensor]["inputs"][0]) if tensor in made else tensor

    waiting, found = [int(details["index"]) for details in network.get_output_details()], {}
    while waiting:
        op = made.get(waiting.pop())
        if op is None:
            continue
        inputs = [int(source) for source in op["inputs"]]
        if op["op_name"] == "FULLY_CONNECTED":
            found[int(op["index"])] = Layer(inputs[0], constant(inputs[1]), constant(inputs[2]))
        elif op["op_name"] in {"ADD", "SOFTMAX", "RESHAPE", "QUANTIZE", "DEQUANTIZE"}:
            waiting += inputs
    return [found[number] for number in sorted(found)]


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
