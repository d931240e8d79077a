"""Running a backbone over many frames: by OpenVINO where that can be had, else by Keras."""

import importlib.util
import warnings
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bloodedge_train import hardware
from bloodedge_train.heads.backbone import Backbone

Frames = NDArray[np.uint8]
Floats = NDArray[np.float32]

BATCH = 64


class Extractor(Protocol):
    """Computes features."""

    def __call__(self, frames: Frames) -> list[Floats]:
        """float32 (N, c) of each depth, of frames uint8 (N, H, W, 3) RGB."""
        ...


@lru_cache(maxsize=1)
def extractor(backbone: Backbone) -> Extractor:
    """The fastest way at hand: on a CPU OpenVINO, one frame at a time on each core, several times as fast as Keras."""
    import keras

    found = importlib.util.find_spec("openvino") is not None
    if found and keras.backend.backend() == "tensorflow" and not hardware.has_gpu():
        return OpenVINOExtractor(backbone)
    return KerasExtractor(backbone)


class KerasExtractor:
    """On whichever back end Keras runs."""

    def __init__(self, backbone: Backbone) -> None:
        """Nothing is compiled yet."""
        self.backbone = backbone

    def __call__(self, frames: Frames) -> list[Floats]:
        """As in ``Extractor``."""
        padding = -len(frames) % BATCH  # every other batch size would be compiled again
        padded = np.concatenate([frames, np.zeros((padding, *frames.shape[1:]), np.uint8)])
        outputs = self.backbone.pooled.predict(padded, batch_size=BATCH, verbose=0)
        depths = outputs if isinstance(outputs, list) else [outputs]
        return [np.asarray(values, np.float32)[: len(frames)] for values in depths]


class OpenVINOExtractor:
    """The same network compiled by OpenVINO in float32."""

    def __init__(self, backbone: Backbone) -> None:
        """Compile it for one frame at a time: larger batches leave the processor's caches and take longer."""
        from bloodedge.engine.openvino import import_openvino, shared_core

        openvino, size = import_openvino(), backbone.size_px
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Keras finds its own tensor's name missing
            network = openvino.convert_model(backbone.pooled)
        network.reshape([1, size, size, 3])
        options = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}
        self._queue = openvino.AsyncInferQueue(shared_core().compile_model(network, "CPU", options))
        self._widths = backbone.widths

    def __call__(self, frames: Frames) -> list[Floats]:
        """As in ``Extractor``."""
        found = [np.empty((len(frames), width), np.float32) for width in self._widths]

        def keep(request: Any, number: int) -> None:
            for depth, values in enumerate(found):
                values[number] = request.get_output_tensor(depth).data[0]

        self._queue.set_callback(keep)
        for number, frame in enumerate(frames):
            self._queue.start_async({0: frame[np.newaxis]}, number)
        self._queue.wait_all()
        return found
