"""ONNX files: float32, int8 by ONNX Runtime's quantiser."""

import gc
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bloodedge_convert.job import Method, Report
from bloodedge_convert.onnx.bias import correct_biases
from bloodedge_convert.onnx.ranges import find_ranges

ONNX_OPSET = 18
LARGE_BYTES = 1024
"""Larger weights bypass tf2onnx."""

INT8 = {
    "Add", "AveragePool", "Clip", "Concat", "Conv", "Gemm", "MatMul", "MaxPool", "Mul", "Pad", "Relu", "Reshape",
    "Sigmoid", "Transpose"
}  # fmt: skip
"""Operators that ONNX Runtime's CPU provider has int8 kernels for (1.32), as far as the zoo has them."""

Images = NDArray[np.uint8]


def to_onnx(saved_model: Path) -> bytes:
    """An ``.onnx`` file, float32.

    tf2onnx sees the network without its large weights: each of its passes copies them, which took 4 GB for ResNet-RS-50
    (135 MB) and a minute. ONNX Runtime then does what needs their values, such as folding batch norms.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "whole.onnx"
        with file.open("wb") as parts:
            graph, inputs, outputs, weights = _without_weights(saved_model, parts)
            gc.collect()  # TensorFlow's graphs hold themselves, and with them the weights
            network = _from_tensorflow(graph, [*inputs, *weights], outputs)
            for value in [value for value in network.graph.input if value.name in weights]:
                network.graph.input.remove(value)
            parts.write(network.SerializeToString())
        return _folded(file)


def _without_weights(saved_model: Path, parts: BinaryIO) -> tuple[Any, list[str], list[str], list[str]]:
    """A GraphDef with placeholders for large weights; the tensor names of its inputs, its outputs and the weights.

    Each weight is written to ``parts`` as an ONNX network that holds nothing else: protobuf messages written one after
    another read as one.
    """
    import tensorflow as tf
    from onnx import GraphProto, ModelProto, TensorProto
    from tf2onnx import tf_loader

    whole, inputs, outputs = tf_loader.from_saved_model(str(saved_model), None, None, large_model=True)
    graph = tf.compat.v1.GraphDef(versions=whole.versions, library=whole.library)
    weights = []
    for node in whole.node:
        tensor = node.attr["value"].tensor if node.op == "Const" else None
        if tensor is None or not _is_weight(tensor):
            graph.node.add().CopyFrom(node)
            continue
        shape = [axis.size for axis in tensor.tensor_shape.dim]
        weight = TensorProto(
            name=f"{node.name}:0", dims=shape, data_type=TensorProto.FLOAT, raw_data=tensor.tensor_content
        )
        parts.write(ModelProto(graph=GraphProto(initializer=[weight])).SerializeToString())
        weights.append(weight.name)
        placeholder = graph.node.add(op="Placeholder", name=node.name)
        placeholder.attr["dtype"].type = tensor.dtype
        placeholder.attr["shape"].shape.CopyFrom(tensor.tensor_shape)
    return graph, inputs, outputs, weights


def _is_weight(tensor: Any) -> bool:
    """Whether a TensorProto is a large kernel; tf2onnx handles tensors with one axis itself."""
    import tensorflow as tf

    return (
        tensor.dtype == tf.float32.as_datatype_enum
        and len(tensor.tensor_shape.dim) > 1
        and len(tensor.tensor_content) > LARGE_BYTES
    )


def _from_tensorflow(graph: Any, inputs: list[str], outputs: list[str]) -> Any:
    """A GraphDef as an ONNX ModelProto."""
    import tensorflow as tf
    from tf2onnx import optimizer, tf_loader, tfonnx

    for part in (*graph.library.function, *graph.node):  # else Keras' grouped convolutions stay functions
        part.attr.pop("_XlaMustCompile", None)
        part.attr.pop("_noinline", None)
    with tf.Graph().as_default():
        tf.import_graph_def(graph, name="")
        graph = tf_loader.tf_optimize(inputs, outputs, graph)
    with tf.Graph().as_default() as network:
        tf.import_graph_def(graph, name="")
        converted = tfonnx.process_tf_graph(
            network,
            opset=ONNX_OPSET,
            custom_op_handlers={"Erfc": (_erfc, [])},
            input_names=inputs,
            output_names=outputs,
        )
    return optimizer.optimize_graph(converted).make_model("bloodedge")


def _erfc(graph: Any, node: Any, name: str, _arguments: list[Any]) -> None:
    """1 - erf(x) for erfc(x), which ONNX lacks."""
    output, shape, dtype = node.output, graph.get_shape(node.output[0]), graph.get_dtype(node.output[0])
    erf = graph.make_node("Erf", node.input, shapes=[shape], dtypes=[dtype])
    one = graph.make_const(f"{name}_one", np.ones((), np.float32))
    graph.remove_node(name)
    graph.make_node("Sub", [one.output[0], erf.output[0]], outputs=output, name=name, shapes=[shape], dtypes=[dtype])


def _folded(file: Path) -> bytes:
    """The network in ``file`` with constant parts computed, in standard operators."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(file.with_name("folded.onnx"))
    options.log_severity_level = 3
    onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return Path(options.optimized_model_filepath).read_bytes()


def to_int8(plain: bytes, images: Images, method: Method, report: Report, rounded: bytes | None = None) -> bytes:
    """The int8 form of a float32 network: uint8 in and float32 out as before, QDQ nodes around what is int8 in between.

    plain: from ``to_onnx``. images: calibration inputs uint8 (N, H, W, 3) RGB, over which the activations' ranges are
    taken in the method's way; biases are corrected. rounded: as plain, with weights on int8's steps; without it each is
    rounded to the nearest.

    Activations are uint8, weights int8, with a scale for each output channel: ONNX Runtime has its fastest kernels for
    these; those for uint8 weights take 2 to 4 times as long on x86-64. Where a processor has no VNNI, they add two
    products in 16 bits, which saturates. So weights have 7 bits (``reduce_range``, -64 to 64): 2 x 255 x 64 < 2^15, and
    all processors agree. What the eighth bit was worth, the correction of biases makes up for.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorData, TensorsData

    ranges = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in find_ranges(plain, images, method, report).items()
    }
    network = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(plain))
    if rounded is not None:
        _take_weights(network, onnx.load_model_from_string(rounded))
    quantiser = QDQQuantizer(
        network,
        per_channel=True,
        reduce_range=True,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
        nodes_to_quantize=[],
        nodes_to_exclude=_float_nodes(network),
        op_types_to_quantize=sorted(INT8),
        extra_options={},
    )
    quantiser.quantize_model()
    quantiser.model.topological_sort()
    int8 = quantiser.model.model
    correct_biases(plain, int8, images, report)
    return bytes(int8.SerializeToString())


def _take_weights(network: Any, other: Any) -> None:
    """Give ``network`` the constants of ``other``, the same graph under other names."""
    own, theirs = ({constant.name: constant for constant in one.graph.initializer} for one in (network, other))
    for node, like in zip(network.graph.node, other.graph.node, strict=True):
        assert node.op_type == like.op_type
        for name, source in zip(node.input, like.input, strict=True):
            if name in own:
                assert own[name].dims == theirs[source].dims
                own[name].CopyFrom(theirs[source])
                own[name].name = name


def _float_nodes(network: Any) -> list[str]:
    """Names of the nodes that stay in float32.

    They are the head, whose few numbers the decision hangs on, and sums and products that are not of two int8 values:
    the scaling of the picture, and what layer normalisation and GELU are made of.
    """
    made = {output: node for node in network.graph.node for output in node.output}
    node, left = made[network.graph.output[0].name], set()
    while node.op_type not in {"Conv", "Gemm", "MatMul"}:
        left.add(node.name)
        node = made[node.input[0]]
    left.add(node.name)
    for node in network.graph.node:
        if node.op_type in {"Add", "Mul"}:
            sources = [made.get(name) for name in dict.fromkeys(node.input)]
            if len(sources) < 2 or any(s is None or s.op_type not in INT8 or s.name in left for s in sources):
                left.add(node.name)
    return sorted(left)
