"""Ranges of the activations of an ONNX network.

ONNX Runtime's own calibrators keep the activations of all images in memory. Given images one by one, they extend their
histograms by bins of the first image's width, without limit where that image gave small values only.
"""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge_convert.cells.calibration_set import spread
from bloodedge_convert.job import Method, Report, counted
from bloodedge_convert.range_search import SEARCHES, Histogram

WEIGHTED = {"Conv", "Gemm", "MatMul"}

Images = NDArray[np.uint8]
Values = Iterable[tuple[str, NDArray[np.float32]]]
Range = tuple[float, float]


def find_ranges(model: bytes, images: Images, method: Method, report: Report) -> dict[str, Range]:
    """The lowest and highest value to represent for each activation, by name; 0 always lies between.

    model: a float32 ``.onnx`` file. images: calibration inputs uint8 (N, H, W, 3) RGB. All give the extremes; the
    methods of range_search choose a narrower range by histograms over some of them. What comes before the first layer
    with weights is still the picture and keeps its range; so do tensors with few values.
    """
    names, layers = _activations(model)
    run = watch(model, names)
    ranges: dict[str, Range] = {}
    for image in counted(images, "Calibrating: onnx int8", report):
        for name, value in run(image):
            low, high = ranges.get(name, (0.0, 0.0))
            ranges[name] = min(low, float(value.min())), max(high, float(value.max()))
    if method in SEARCHES:
        histograms = {name: Histogram(*ranges[name]) for name in layers if ranges[name] != (0.0, 0.0)}
        for image in counted(spread(images), f"Ranges by {method}: onnx int8", report):
            for name, value in run(image):
                if name in histograms:
                    histograms[name].add(np.moveaxis(value, 1, -1))  # from (views, C, H, W)
        for name, histogram in histograms.items():
            if (chosen := histogram.search(method)) is not None:
                ranges[name] = min(chosen[0], 0.0), max(chosen[1], 0.0)
    return ranges


def _activations(model: bytes) -> tuple[list[str], list[str]]:
    """Names of the activations without the output, in order of computation; and of those from the first layer on."""
    import onnx

    graph = onnx.load_model_from_string(model).graph
    made = [(node.op_type, name) for node in graph.node for name in node.output if name != graph.output[0].name]
    first = next(number for number, (op_type, _) in enumerate(made) if op_type in WEIGHTED)
    names = [name for _, name in made]
    return names, names[first:]


def watch(model: bytes, names: Sequence[str], beside: Any = None) -> Callable[[NDArray[np.uint8]], Values]:
    """A function from an image uint8 (H, W, 3) to activations of an ``.onnx`` file by name.

    beside: an ``onnx.GraphProto`` of further nodes on the model's activations, and their constants.
    """
    import onnx
    import onnxruntime

    added = onnx.GraphProto(output=[onnx.helper.make_empty_tensor_value_info(name) for name in names])
    if beside is not None:
        added.MergeFrom(beside)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "watched.onnx"
        with file.open("wb") as parts:  # protobuf messages written one after another read as one
            parts.write(model)
            parts.write(onnx.ModelProto(graph=added).SerializeToString())
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0].name
    return lambda image: zip(names, session.run(names, {source: image[np.newaxis]}), strict=True)
