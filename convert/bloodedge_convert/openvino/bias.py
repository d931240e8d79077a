"""Bias correction of an int8 OpenVINO network; see litert.bias for the reason.

NNCF's own correction leaves depthwise convolutions out, where most of MobileNetV2's shift arises.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.engine.openvino import import_openvino, shared_core
from bloodedge_convert.cells.calibration_set import spread
from bloodedge_convert.openvino.write import WITH_WEIGHTS


def correct_biases(
    float_model: Any, int8_model: Any, images: NDArray[np.uint8], report: Callable[[int, int], None]
) -> None:
    """Move the biases of ``int8_model`` (an openvino.Model, changed in place) until mean outputs are the float model's.

    Both models come from the same graph, NNCF having kept its names. images: calibration inputs uint8 (N, H, W, 3) RGB.
    """
    openvino = import_openvino()
    images = spread(images)
    by_name = {op.get_friendly_name(): op for op in float_model.get_ops()}
    sums = [op for op in int8_model.get_ordered_ops() if _adds_bias(op) and op.get_friendly_name() in by_name]
    means = _means(float_model, [by_name[op.get_friendly_name()] for op in sums], images)
    for number, (op, wanted) in enumerate(zip(sums, means, strict=True), 1):
        (found,) = _means(int8_model, [op], images)
        bias = op.input_value(1).get_node().data
        shape = np.broadcast_shapes(bias.shape, wanted.shape)
        moved = np.broadcast_to(bias, shape) + (wanted - found)
        op.input(1).replace_source_output(openvino.opset13.constant(moved.astype(np.float32)).output(0))
        report(number, len(sums))


def _adds_bias(op: Any) -> bool:
    if op.get_type_name() != "Add":
        return False
    first, second = (op.input_value(side).get_node() for side in (0, 1))
    return first.get_type_name() in WITH_WEIGHTS and second.get_type_name() == "Constant"


def _means(model: Any, wanted: list[Any], images: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
    """Mean outputs of operators per channel, (1, C) after a dense layer and (1, C, 1, 1) after a convolution.

    The network takes the means of an image itself, over all of its views: one pass gives those of all the operators.
    """
    openvino = import_openvino()
    opset = openvino.opset13
    means = []
    for op in wanted:
        axes = opset.constant(np.array([0, *range(2, len(op.output(0).shape))], np.int64))
        means.append(opset.reduce_mean(op.output(0), axes, keep_dims=True))
    part = openvino.Model(means, model.get_parameters())
    request = shared_core().compile_model(part, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
    totals = [np.zeros(mean.output(0).shape, np.float64) for mean in means]
    for image in images:
        for total, value in zip(totals, request.infer([image[np.newaxis]]).values(), strict=True):
            np.add(total, value, out=total)
    return [total / len(images) for total in totals]
