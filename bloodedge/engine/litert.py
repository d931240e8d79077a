"""LiteRT (formerly TensorFlow Lite): the engine of ARM boards, and of any machine without OpenVINO."""

import importlib
import importlib.metadata
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.errors import BloodedgeError

_quiet = threading.Lock()
"""stderr is the whole process': two loads at once would put it back to where the other one sent it."""


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Drop what LiteRT's C++ part prints while a model is loaded: "INFO: Created TensorFlow Lite XNNPACK delegate".

    It has no setting for that, and its errors come as exceptions.
    """
    with _quiet:
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


def load_interpreter(model: bytes, threads: int, *, keep_tensors: bool = False) -> tuple[Any, str]:
    """(interpreter with its tensors allocated, runtime with its version); BloodedgeError when the model is damaged.

    tflite-runtime is LiteRT's predecessor, found on old boards. With ``keep_tensors`` the tensors between the layers
    can be read after ``invoke``, which is slow.
    """
    try:
        module, package = importlib.import_module("ai_edge_litert.interpreter"), "ai-edge-litert"
    except ImportError:
        module, package = importlib.import_module("tflite_runtime.interpreter"), "tflite-runtime"
    options = {}
    if keep_tensors:
        plain = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        options = {"experimental_preserve_all_tensors": True, "experimental_op_resolver_type": plain}
    try:
        with _quiet_stderr():
            interpreter = module.Interpreter(model_content=model, num_threads=threads, **options)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise BloodedgeError("LiteRT cannot read this model; convert the run again.") from error
    return interpreter, f"{package} {importlib.metadata.version(package)}"


class LiteRTEngine:
    """A ``.tflite`` network with one static batch-1 input; a quantised output is turned back into probabilities."""

    name = "litert"

    def __init__(self, model: bytes, threads: int) -> None:
        """Load ``model`` (a ``.tflite`` file's bytes) onto ``threads`` threads; BloodedgeError when it is damaged."""
        self._interpreter, self.runtime = load_interpreter(model, threads)
        (source,) = self._interpreter.get_input_details()
        (result,) = self._interpreter.get_output_details()
        self._input, self._output = source["index"], result["index"]
        self.input_shape = tuple(int(side) for side in source["shape"][1:])
        self._classes, self._dtype = int(result["shape"][-1]), np.dtype(result["dtype"])
        self._values = _values(self._dtype, *result["quantization"]) if self._dtype in (np.uint8, np.int8) else None

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Class probabilities float32 (N, classes) of network inputs uint8 (N, *ImagingSpec.input_shape), RGB."""
        raw = np.zeros((len(images), self._classes), self._dtype)
        failed = []
        for index in range(len(images)):
            self._interpreter.set_tensor(self._input, images[index : index + 1])
            try:
                self._interpreter.invoke()
            except RuntimeError:
                failed.append(index)
            else:
                raw[index] = self._interpreter.get_tensor(self._output)[0]
        in_bits = raw.view(f"u{raw.itemsize}")
        probabilities = raw.astype(np.float32) if self._values is None else self._values.take(in_bits)
        probabilities[failed] = np.nan
        return probabilities


def _values(dtype: np.dtype[Any], scale: float, zero: int) -> NDArray[np.float32]:
    """What each number of a quantised ``dtype`` stands for, in the order of its bits read as unsigned.

    Looking a result up is one call into numpy where computing it is three: between two runs of a network, which leave
    nothing else in the processor's caches, that is 1 % of a small int8 network's time.
    """
    numbers = np.arange(2 ** (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}").view(dtype)
    return (numbers.astype(np.float32) - np.float32(zero)) * np.float32(scale)
