"""OpenVINO: the engine of x86 machines."""

import importlib.metadata
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.errors import BloodedgeError


def import_openvino() -> Any:
    """The openvino module, without its usage statistics.

    Importing openvino (and nncf) reports to the vendor's analytics unless openvino_telemetry cannot be imported, which
    both allow for; a machine beside a microscope reports nothing to anybody.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def settings(threads: int) -> dict[str, Any]:
    """How every network is compiled for the CPU: for the lowest latency of one cell."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # The CPU's own default is bf16 where it has it: probabilities move by up to 0.16. int8 layers stay int8.
        "INFERENCE_PRECISION_HINT": "f32",
    }


class OpenVINOEngine:
    """An OpenVINO IR network with one static batch-1 input, compiled for the CPU and lowest latency."""

    name = "openvino"

    def __init__(self, model: bytes, weights: bytes | None, threads: int) -> None:
        """Load ``model`` (``.xml`` bytes) and ``weights`` (``.bin`` bytes); BloodedgeError when they are damaged."""
        openvino = import_openvino()
        self.runtime = f"openvino {importlib.metadata.version('openvino')}"
        try:
            core = openvino.Core()
            compiled = core.compile_model(core.read_model(model, weights or b""), "CPU", settings(threads))
        except RuntimeError as error:
            raise BloodedgeError("OpenVINO cannot read this model; convert the run again.") from error
        self._request = compiled.create_infer_request()
        # One input tensor that lives as long as the request: handing over a new one each time costs 10 % on small nets.
        self._tensors = openvino.Tensor(openvino.Type.u8, compiled.input(0).shape), self._request.get_output_tensor()
        self._request.set_input_tensor(self._tensors[0])
        self._input, self._output = (tensor.data for tensor in self._tensors)

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Class probabilities float32 (N, classes) of network inputs uint8 (N, H, W, 3) RGB."""
        probabilities = np.empty((len(images), self._output.shape[-1]), np.float32)
        for index, image in enumerate(images):
            self._input[0] = image
            self._request.infer()
            probabilities[index] = self._output[0]
        return probabilities
