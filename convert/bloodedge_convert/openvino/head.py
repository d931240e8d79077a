"""The head of a finished OpenVINO network; see litert.head."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.engine.openvino import import_openvino, shared_core
from bloodedge_convert.litert.head import part_signs
from bloodedge_convert.openvino.write import save

SUMS = {"Add", "Softmax", "Squeeze", "Unsqueeze", "Reshape", "Sigmoid"}


class OpenVINOHead:
    """The head of an IR network; layers in the order in which the network computes them."""

    def __init__(self, model: bytes, weights: bytes) -> None:
        self._network = shared_core().read_model(model, weights)
        self._layers = _parts(self._network)[0]
        self.kernels = [_difference(_constant(layer, 1)) for layer in self._layers]
        """Of each layer of the first linear part, (width,): what its features add to the log-odds."""
        self.bias = float(sum(_difference(_constant(_sum_after(layer), 1).reshape(2, 1))[0] for layer in self._layers))
        """Of the first linear part."""

    def features(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """What each layer takes, (N, width), of network inputs uint8 (N, *ImagingSpec.input_shape)."""
        openvino = import_openvino()
        ends = [layer.input_value(0) for layer in self._layers]
        part = openvino.Model([openvino.opset13.result(end) for end in ends], self._network.get_parameters())
        request = shared_core().compile_model(part, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
        found = [np.empty((len(images), len(kernel)), np.float32) for kernel in self.kernels]
        for number, image in enumerate(images):
            request.infer([image[np.newaxis]])
            for index, values in enumerate(found):
                values[number] = request.get_output_tensor(index).data[0]
        return found

    def replaced(self, kernels: list[list[NDArray[np.float64]]], biases: list[float]) -> tuple[bytes, bytes]:
        """The .xml and .bin with another head of as many linear parts: see LiteRTHead."""
        openvino = import_openvino()
        network = self._network.clone()
        parts = _parts(network)
        for layers, values, bias, signs in zip(parts, kernels, biases, part_signs(len(kernels)), strict=True):
            for layer, kernel in zip(layers, values, strict=True):
                _replace(openvino, layer, signs[:, np.newaxis] * kernel)
                _replace(openvino, _sum_after(layer), signs * bias / len(layers))
        with tempfile.TemporaryDirectory(prefix="bloodedge-head-") as temporary:
            target = Path(temporary) / "model.xml"
            save(network, target)
            return target.read_bytes(), target.with_suffix(".bin").read_bytes()


def _parts(network: Any) -> list[list[Any]]:
    """The MatMul operators of each linear part; see litert.head."""
    waiting = [(result.input_value(0).get_node(), 0) for result in network.get_results()]
    found: list[dict[str, Any]] = [{}, {}, {}]
    while waiting:
        op, part = waiting.pop()
        inputs = [op.input_value(side).get_node() for side in range(op.get_input_size())]
        if op.get_type_name() == "MatMul":
            found[part][inputs[0].get_friendly_name()] = op
        elif op.get_type_name() in SUMS:
            waiting += [(one, part) for one in inputs]
        elif op.get_type_name() == "Multiply" and "Sigmoid" in {one.get_type_name() for one in inputs}:
            waiting += [(one, 2 if one.get_type_name() == "Sigmoid" else 1) for one in inputs]
    place = {op.get_friendly_name(): number for number, op in enumerate(network.get_ordered_ops())}
    order = sorted(found[0], key=lambda features: place[found[0][features].get_friendly_name()])
    return [[layers[features] for features in order] for layers in found if layers]


def _sum_after(layer: Any) -> Any:
    """The operator that adds a layer's bias."""
    (after,) = (target.get_node() for target in layer.output(0).get_target_inputs())
    return after


def _source(op: Any, side: int) -> Any:
    """A constant, or the operator that widens a float16 one."""
    node = op.input_value(side).get_node()
    return node.input_value(0).get_node() if node.get_type_name() == "Convert" else node


def _constant(op: Any, side: int) -> NDArray[np.float64]:
    return np.asarray(_source(op, side).data, np.float64)


def _replace(openvino: Any, op: Any, values: NDArray[np.float64]) -> None:
    old = _source(op, 1)
    new = openvino.opset13.constant(values.reshape(old.data.shape).astype(old.data.dtype))
    for target in old.output(0).get_target_inputs():
        target.replace_source_output(new.output(0))


def _difference(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    normal, blast = kernel
    return np.asarray(blast - normal)
