"""LiteRT files: float32, float16 weights, int8 weights, full int8."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.bundle.manifest import Precision
from bloodedge.engine.litert import load_interpreter
from bloodedge_convert.job import Report
from bloodedge_convert.litert.activations import WITH_WEIGHTS
from bloodedge_convert.litert.ranges import with_extremes

Images = NDArray[np.uint8]

FLOAT_MARK = "in_float32"
"""In the name of a layer that stays in float32 in an int8 network."""
CALIBRATOR_IMAGES = 2
"""How many images TensorFlow's own calibrator sees."""
WITHOUT_INT8_KERNEL = {
    "ABS", "AVERAGE_POOL_2D", "DIV", "EXP", "GELU", "HARD_SWISH", "MAXIMUM", "MINIMUM", "PRELU", "RELU", "RELU6",
    "RSQRT", "SQRT", "SQUARED_DIFFERENCE"
}  # fmt: skip
"""Operators that XNNPACK has in float32 only (ai-edge-litert 2.3), by their names in LiteRT's schema.

A ReLU counts only where it stands alone; after a convolution or a sum it is part of that operator.
"""


def to_litert(saved_model: Path, precision: Precision) -> bytes:
    """A ``.tflite`` file: float32, float16 weights, or int8 weights alone ("dynamic": activations stay float32)."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model))
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    return bytes(converter.convert())


def calibrate(saved_model: Path, plain: bytes, images: Images, report: Report) -> bytes:
    """A float32 ``.tflite`` file in which every activation carries the range that it has over ``images``.

    plain: the same network in float32, from ``to_litert``. TensorFlow's calibrator finds, on a few images, which
    tensors need a range; ``with_extremes`` finds the ranges.
    """
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[np.newaxis]] for image in images[:CALIBRATOR_IMAGES])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8
    converter.inference_output_type = tf.uint8
    converter._experimental_calibrate_only = True
    return with_extremes(bytes(converter.convert()), plain, images, report)


def quantise(calibrated: bytes, float_tensors: Collection[str] = ()) -> bytes:
    """The int8 form, uint8 in and uint8 out, of a network that carries its ranges, a few layers kept in float32.

    float_tensors: names of the outputs of further layers to keep. The converter itself would do this next, but only its
    debugger takes layers to keep. In int8, the layers of ``WITHOUT_INT8_KERNEL`` would run one by one on slow kernels
    and cut the network into pieces. What gives the logits is kept too, from the means over feature maps on: it costs
    next to nothing, their few numbers are the decision, and rounding the means costs as much as all the rest.
    """
    import tensorflow as tf
    from tensorflow.lite.python.convert import mlir_quantize

    return bytes(
        mlir_quantize(
            calibrated,
            input_data_type=tf.uint8,
            output_data_type=tf.uint8,
            denylisted_ops=sorted(WITHOUT_INT8_KERNEL),
            denylisted_nodes=[*_marked(calibrated), *_logits(calibrated), *float_tensors],
        )
    )


def _marked(model: bytes) -> list[str]:
    """Names of the tensors in the parts of a network that stay in float32."""
    network, _ = load_interpreter(model, threads=1, keep_tensors=True)
    return [details["name"] for details in network.get_tensor_details() if FLOAT_MARK in details["name"]]


def _logits(model: bytes) -> list[str]:
    """Names of the tensors from the last layers with weights, or the means that these take, to the output."""
    network, _ = load_interpreter(model, threads=1, keep_tensors=True)
    names = {details["index"]: details["name"] for details in network.get_tensor_details()}
    made = {int(output): op for op in network._get_ops_details() for output in op["outputs"]}
    waiting, found = [int(details["index"]) for details in network.get_output_details()], set()
    while waiting:
        tensor = waiting.pop()
        if tensor in made and tensor not in found:
            found.add(tensor)
            inputs = [int(source) for source in made[tensor]["inputs"]]
            if made[tensor]["op_name"] in WITH_WEIGHTS:
                found |= _mean(made, inputs[0])
            else:
                waiting += inputs
    return sorted(names[tensor] for tensor in found)


def _mean(made: Mapping[int, Any], tensor: int) -> set[int]:
    """The tensors from a mean over a feature map, itself included, to ``tensor``; none where there is no mean.

    made: each tensor's operator, as the interpreter describes it.
    """
    found = set()
    while tensor in made and made[tensor]["op_name"] in {"MEAN", "RESHAPE"}:
        found.add(tensor)
        if made[tensor]["op_name"] == "MEAN":
            return found
        tensor = int(made[tensor]["inputs"][0])
    return set()
