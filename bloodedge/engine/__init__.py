"""Running a network: each runtime behind one small protocol, imported only when used."""

import importlib.util
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from bloodedge.bundle.manifest import Artifact
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.imaging.network_input import in_words
from bloodedge.installation import install_hint

if TYPE_CHECKING:
    from bloodedge.bundle import Bundle


class Engine(Protocol):
    """A loaded network."""

    name: str
    """litert, openvino, onnx or keras."""
    runtime: str
    """The runtime with its version, e.g. "ai-edge-litert 2.3.0"."""

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Class probabilities float32 (N, classes) of network inputs uint8 (N, *ImagingSpec.input_shape), RGB.

        NaN for an input over which the engine of a board fails.
        """
        ...


EXTRA = {"litert": "device", "openvino": "openvino", "onnx": "convert", "keras": "train"}
PACKAGES = {
    "litert": ("ai_edge_litert", "tflite_runtime"),
    "openvino": ("openvino",),
    "onnx": ("onnxruntime",),
    "keras": ("keras",),
}


def installed(name: str) -> bool:
    """Whether the runtime of an engine can be imported here (without importing it)."""
    return any(importlib.util.find_spec(package) is not None for package in PACKAGES[name])


def load_artifact(bundle: "Bundle", artifact: Artifact, threads: int, openvino_device: str = "CPU") -> Engine:
    """The engine of one of the bundle's artifacts, its files' digests checked.

    openvino_device: CPU, GPU or NPU. Raises UsageError when the engine's runtime is not installed or the device not
    there, BloodedgeError when a file was changed or the network takes another input than the manifest says.
    """
    model = bundle.read(artifact.file)
    weights = bundle.read(artifact.weights_file) if artifact.weights_file else None
    loaded = load_bytes(artifact.engine, model, weights, threads, openvino_device)
    if loaded.input_shape != (told := bundle.manifest.input.shape):
        raise BloodedgeError(
            f"{bundle.path}: {artifact.file} takes {in_words(loaded.input_shape)}, but the manifest says "
            f"{in_words(told)}; convert the run again."
        )
    return loaded


class LoadedFile(Engine, Protocol):
    """An engine with a network from a file."""

    input_shape: tuple[int, ...]
    """Shape of one network input, as ``ImagingSpec.input_shape``."""


def load_bytes(
    engine: str, model: bytes, weights: bytes | None, threads: int, openvino_device: str = "CPU"
) -> LoadedFile:
    """An engine from a model file's bytes; ``weights`` are the bytes of an OpenVINO ``.bin``."""
    require(engine)
    if engine == "litert":
        from bloodedge.engine.litert import LiteRTEngine

        return LiteRTEngine(model, threads)
    if engine == "openvino":
        from bloodedge.engine.openvino import OpenVINOEngine

        return OpenVINOEngine(model, weights, threads, openvino_device)
    if engine == "onnx":
        from bloodedge.engine.onnx import OnnxEngine

        return OnnxEngine(model, threads)
    raise UsageError(f'Engine "{engine}" does not run from a bundle; choose litert, openvino or onnx.')


def require(engine: str) -> None:
    """Raise UsageError, naming the extra to install, when an engine's runtime is missing."""
    if not installed(engine):
        raise UsageError(f"The {engine} engine is not installed here; {install_hint(EXTRA[engine])}")
