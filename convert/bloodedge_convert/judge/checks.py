"""Silent faults of converters, found before an artifact is judged by its figures."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.decision.thresholds import is_fault
from bloodedge.engine.litert import load_interpreter
from bloodedge.engine.openvino import shared_core
from bloodedge.errors import BloodedgeError
from bloodedge_convert.job import Kind

BYTES = {"float32": 4, "float16": 2, "dynamic": 1, "int8": 1}


@dataclass(frozen=True)
class Port:
    """An input or output of a converted network; -1 stands for a dynamic dimension."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Ports:
    """All inputs and outputs of a converted network."""

    inputs: list[Port]
    outputs: list[Port]


def ports(kind: Kind, model: bytes, weights: bytes | None) -> Ports:
    """The network's inputs and outputs, read from its file by its own runtime."""
    if kind.engine == "litert":
        interpreter, _ = load_interpreter(model, threads=1)
        sides = interpreter.get_input_details(), interpreter.get_output_details()
        return Ports(*([_litert_port(details) for details in side] for side in sides))
    if kind.engine == "openvino":
        network = shared_core().read_model(model, weights or b"")
        return Ports(*([_openvino_port(p) for p in side] for side in (network.inputs, network.outputs)))
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return Ports(*([_onnx_port(p) for p in side] for side in (session.get_inputs(), session.get_outputs())))


def _litert_port(details: Any) -> Port:
    return Port(tuple(int(side) for side in details["shape_signature"]), details["dtype"].__name__)


def _openvino_port(port: Any) -> Port:
    shape = tuple(d.get_length() if d.is_static else -1 for d in port.get_partial_shape())
    return Port(shape, str(port.get_element_type().to_dtype()))


def _onnx_port(port: Any) -> Port:
    dtype = port.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(side if isinstance(side, int) else -1 for side in port.shape)
    return Port(shape, {"float": "float32"}.get(dtype, dtype))


def check(kind: Kind, found: Ports, size_bytes: int, *, shape: tuple[int, ...], classes: int, parameters: int) -> None:
    """Raise BloodedgeError when the artifact's form shows that it is no faithful conversion.

    shape: of one network input.
    """
    fault = _fault(found, shape, classes)
    # Batch norms fold into their convolutions, so fewer parameters are stored than were trained; never under half.
    if fault is None and size_bytes < parameters * BYTES[kind.precision] / 2:
        fault = f"its {size_bytes} bytes cannot hold {parameters} parameters (variables were not initialised)"
    if fault:
        raise BloodedgeError(
            f"The {kind.engine} {kind.precision} conversion is broken: {fault}; leave that engine out with --engine."
        )


def check_answers(kind: Kind, outputs: NDArray[np.float32]) -> None:
    """Raise BloodedgeError when outputs float32 (N, classes) of a converted network are not probabilities."""
    faults = is_fault(outputs)
    if faults.any():
        raise BloodedgeError(
            f"The {kind.engine} {kind.precision} conversion is broken: for {faults.sum()} of {len(outputs)} cells its "
            "outputs are no probabilities (variables were not initialised, or a layer overflows); leave that engine "
            "out with --engine."
        )


def _fault(found: Ports, shape: tuple[int, ...], classes: int) -> str | None:
    for name, side in (("input", found.inputs), ("output", found.outputs)):
        if len(side) != 1:
            return f"it has {len(side)} {name}s instead of one"
    source, result = found.inputs[0], found.outputs[0]
    if -1 in source.shape or -1 in result.shape:
        return "its batch is not static"
    if source != (wanted := Port((1, *shape), "uint8")):
        return f"it takes {source.dtype} {source.shape} instead of {wanted.dtype} {wanted.shape}"
    if result.shape != (1, classes):
        return f"it gives {result.shape} instead of {(1, classes)}"
    return None
