"""Bias correction of an int8 ONNX network.

See litert.bias for the reason. A convolution is linear, so the shift is the convolution of the same inputs with the
weights' rounding errors: one run of the float network gives the shifts of all layers.
"""

from collections import Counter
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge_convert.cells.calibration_set import spread
from bloodedge_convert.job import Report, counted
from bloodedge_convert.onnx.ranges import watch


def correct_biases(plain: bytes, int8: Any, images: NDArray[np.uint8], report: Report) -> None:
    """Correct the biases of ``int8``, an ``onnx.ModelProto`` with QDQ nodes made from the float32 file ``plain``.

    images: calibration inputs uint8 (N, H, W, 3) RGB, some of which are used, evenly spread. Layers without a bias, and
    biases that layers share, stay as they are.
    """
    from onnx import numpy_helper

    biases = _biases(int8)
    if not biases:
        return
    images = spread(images)
    shifts: dict[str, NDArray[np.float64]] = dict.fromkeys(biases, np.zeros(1))
    run = watch(plain, list(biases), _errors(plain, int8, biases))
    for image in counted(images, "Correcting biases: onnx int8", report):
        for name, shift in run(image):
            shifts[name] = shifts[name] + shift.mean(axis=0).ravel() / len(images)
    for name, (bias, scales) in biases.items():
        corrected = numpy_helper.to_array(bias) - np.rint(shifts[name] / scales)
        bias.CopyFrom(numpy_helper.from_array(corrected.astype(np.int32), bias.name))


def _biases(int8: Any) -> dict[str, tuple[Any, NDArray[np.float32]]]:
    """Each convolution's bias, a TensorProto int32 (outputs,), and the scales of its values, by the layer's name."""
    from onnx import numpy_helper

    constants, made = _constants(int8), _made(int8)
    biases = {
        name: made[layer.input[2]].input
        for name, layer in _convolutions(int8).items()
        if len(layer.input) > 2 and layer.input[2] in made
    }
    uses = Counter(values for values, *_ in biases.values())
    return {
        name: (constants[values], numpy_helper.to_array(constants[scales]))
        for name, (values, scales, *_) in biases.items()
        if uses[values] == 1
    }


def _errors(plain: bytes, int8: Any, names: Collection[str]) -> Any:
    """A GraphProto that computes how the weights' rounding errors shift the mean outputs of the layers ``names``.

    Each shift is an activation float32 (views, outputs, 1, 1) with the layer's name.
    """
    import onnx
    from onnx import helper, numpy_helper

    network, graph = onnx.load_model_from_string(plain), onnx.GraphProto()
    constants, rounded, layers, made = _constants(network), _constants(int8), _convolutions(int8), _made(int8)
    for name, layer in _convolutions(network).items():
        if name not in names:
            continue
        values, scales, *_ = (numpy_helper.to_array(rounded[part]) for part in made[layers[name].input[1]].input)
        errors = values * scales.reshape(-1, 1, 1, 1) - numpy_helper.to_array(constants[layer.input[1]])
        graph.initializer.append(numpy_helper.from_array(errors.astype(np.float32), f"{name} errors"))
        twin = graph.node.add()
        twin.CopyFrom(layer)
        twin.name, twin.input[:], twin.output[:] = f"{name} twin", [layer.input[0], f"{name} errors"], [f"{name} added"]
        graph.node.append(helper.make_node("GlobalAveragePool", [f"{name} added"], [name]))
    return graph


def _constants(network: Any) -> dict[str, Any]:
    return {constant.name: constant for constant in network.graph.initializer}


def _convolutions(network: Any) -> dict[str, Any]:
    return {node.name: node for node in network.graph.node if node.op_type == "Conv"}


def _made(network: Any) -> dict[str, Any]:
    """The node that computes each activation."""
    return {output: node for node in network.graph.node for output in node.output}
