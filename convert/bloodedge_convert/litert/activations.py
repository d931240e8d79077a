"""The activations inside a LiteRT network.

Tensors between XNNPACK's kernels cannot be read, and without XNNPACK a network runs several times slower and, in int8,
with other values. So a copy of the network gives the wanted tensors as its outputs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.engine.litert import load_interpreter

WITH_WEIGHTS = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}
"""Operators whose second input is a kernel."""
OUTPUTS_FIELD, OPERATORS_FIELD = 8, 10
"""Fields of a SubGraph's table in LiteRT's schema that point to its outputs and its operators."""
THREADS = 2


def watch(model: bytes, tensors: Sequence[int]) -> Callable[[NDArray[np.uint8]], list[NDArray[Any]]]:
    """A function from an image uint8 (H, W, 3) RGB to copies of the stored values of the tensors with these numbers."""
    network, _ = load_interpreter(with_outputs(model, tensors), threads=THREADS)
    source = network.get_input_details()[0]["index"]

    def look(image: NDArray[np.uint8]) -> list[NDArray[Any]]:
        network.set_tensor(source, image[np.newaxis])
        network.invoke()
        return [network.get_tensor(tensor) for tensor in tensors]

    return look


def with_outputs(model: bytes, tensors: Sequence[int]) -> bytes:
    """A copy of a network whose outputs are ``tensors``; it ends with the operator that makes the last of them."""
    data = bytearray(model)
    graph = schema().Model.GetRootAs(data, 0).Subgraphs(0)
    table, wanted = graph._tab, set(tensors)
    makers = [i for i in range(graph.OperatorsLength()) if wanted.intersection(graph.Operators(i).OutputsAsNumpy())]
    # Operators stand in the order in which they run; a flatbuffer's list begins with its length, 4 bytes.
    start = table.Vector(table.Offset(OPERATORS_FIELD))
    assert table.Indirect(start) == graph.Operators(0)._tab.Pos
    data[start - 4 : start] = (makers[-1] + 1).to_bytes(4, "little")
    # A longer list of outputs goes to the end of the file; its field holds the distance from the field to there.
    data += bytes(-len(data) % 4)
    field = table.Pos + table.Offset(OUTPUTS_FIELD)
    data[field : field + 4] = (len(data) - field).to_bytes(4, "little")
    data += np.array([len(tensors), *tensors], "<i4").tobytes()
    return bytes(data)


def schema() -> Any:
    """LiteRT's file format."""
    from ai_edge_litert import schema_py_generated

    return schema_py_generated
