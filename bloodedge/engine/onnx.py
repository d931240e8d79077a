"""ONNX Runtime: a third check of a conversion, and an engine for machines without the other two."""

import importlib.metadata

import numpy as np
from numpy.typing import NDArray

from bloodedge.errors import BloodedgeError


class OnnxEngine:
    """An ONNX network with one static batch-1 input, on the CPU."""

    name = "onnx"

    def __init__(self, model: bytes, threads: int) -> None:
        """Load ``model`` (``.onnx`` bytes) onto ``threads`` threads; BloodedgeError when it is damaged."""
        import onnxruntime

        self.runtime = f"onnxruntime {importlib.metadata.version('onnxruntime')}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class but Exception
            raise BloodedgeError("ONNX Runtime cannot read this model; convert the run again.") from error
        source = self._session.get_inputs()[0]
        self._input, self.input_shape = source.name, tuple(source.shape[1:])
        self._classes = int(self._session.get_outputs()[0].shape[-1])

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Class probabilities float32 (N, classes) of network inputs uint8 (N, *ImagingSpec.input_shape), RGB."""
        probabilities = np.empty((len(images), self._classes), np.float32)
        for index in range(len(images)):
            probabilities[index] = self._session.run(None, {self._input: images[index : index + 1]})[0][0]
        return probabilities
