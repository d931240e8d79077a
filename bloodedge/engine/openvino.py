"""OpenVINO: the engine of x86 machines."""

import importlib.metadata
import os
import sys
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.errors import BloodedgeError, UsageError


def import_openvino() -> Any:
    """The openvino module, without its usage statistics.

    Importing openvino (and nncf) reports to the vendor's analytics unless openvino_telemetry cannot be imported, which
    both allow for; a machine beside a microscope sends no reports.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


@cache
def shared_core() -> Any:
    """The process' one OpenVINO core, which is never let go.

    A core's CPU plugin gives the thread that first compiles a network a signal stack of its own, and puts back the one
    before when the core goes. Where cores go in another order than the reverse of that in which they came, as networks
    do that take over from each other, it puts back one that is freed, and the next signal ends the process.

    It also looks round in the working folder, and where the user may not enter that (``sudo -u`` in a person's home)
    its exception ends the process; such a folder, in which no relative path leads anywhere, is left.
    """
    if not os.access(".", os.X_OK, effective_ids=True):
        os.chdir("/")
    return import_openvino().Core()


def settings(threads: int, device: str = "CPU") -> dict[str, Any]:
    """How every network is compiled: for the lowest latency of one cell.

    GPU and NPU compute what is not int8 in float16, their own way, which a bundle's self-test judges.
    """
    if device != "CPU":
        return {"PERFORMANCE_HINT": "LATENCY"}
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # The CPU's own default is bf16 where it has it: probabilities move by up to 0.16. int8 layers stay int8.
        "INFERENCE_PRECISION_HINT": "f32",
    }


class OpenVINOEngine:
    """An OpenVINO IR network with one static batch-1 input, compiled for lowest latency."""

    name = "openvino"

    def __init__(self, model: bytes, weights: bytes | None, threads: int, device: str = "CPU") -> None:
        """Load ``model`` (``.xml`` bytes) and ``weights`` (``.bin`` bytes); BloodedgeError when they are damaged.

        device: CPU, GPU or NPU; UsageError where it is not there.
        """
        openvino = import_openvino()
        core = shared_core()
        found = core.available_devices
        if not any(name.split(".")[0] == device for name in found):
            raise UsageError(f"OpenVINO finds no {device} here; choose one of: {', '.join(found)}.")
        on = "" if device == "CPU" else f" on {core.get_property(device, 'FULL_DEVICE_NAME')}"
        self.runtime = f"openvino {importlib.metadata.version('openvino')}{on}"
        try:
            compiled = core.compile_model(core.read_model(model, weights or b""), device, settings(threads, device))
        except RuntimeError as error:
            raise BloodedgeError("OpenVINO cannot read this model; convert the run again.") from error
        self.input_shape = tuple(compiled.input(0).shape)[1:]
        self._request = compiled.create_infer_request()
        # One input tensor that lives as long as the request: handing over a new one each time costs 10 % on small nets.
        self._tensors = openvino.Tensor(openvino.Type.u8, compiled.input(0).shape), self._request.get_output_tensor()
        self._request.set_input_tensor(self._tensors[0])
        self._input, self._output = (tensor.data for tensor in self._tensors)

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Class probabilities float32 (N, classes) of network inputs uint8 (N, *ImagingSpec.input_shape), RGB."""
        probabilities = np.empty((len(images), self._output.shape[-1]), np.float32)
        for index, image in enumerate(images):
            self._input[0] = image
            try:
                self._request.infer()
            except RuntimeError:
                probabilities[index] = np.nan
            else:
                probabilities[index] = self._output[0]
        return probabilities
