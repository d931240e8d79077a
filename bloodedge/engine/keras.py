"""Keras: the float model itself, straight from its run folder, on whichever back end KERAS_BACKEND names."""

import gc
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.installation import install_hint, pip

BATCH = 64
ON_GPU, ON_CPU = ("jax", "torch", "tensorflow"), ("tensorflow", "torch", "jax")
"""Back ends in the order of preference; on a CPU TensorFlow fitted edgenet four times as fast as JAX."""
BACKEND_PACKAGES = {"jax": ("jax",), "torch": ("torch",), "tensorflow": ("tensorflow", "tensorflow-cpu")}


def load_keras() -> str:
    """Import Keras on the back end that KERAS_BACKEND names, or else on the best one installed; returns its name."""
    if importlib.util.find_spec("keras") is None:
        raise UsageError(f"Keras is not installed here; {install_hint('train')}")
    order = ON_GPU if Path("/dev/nvidia0").exists() else ON_CPU
    installed = [name for name in order if importlib.util.find_spec(name) is not None]
    named = os.environ.get("KERAS_BACKEND")
    if named and named not in installed:
        raise UsageError(f"KERAS_BACKEND is {named}, which is not installed here; unset it or install {named}.")
    if not installed:
        raise UsageError(f"Keras needs jax, tensorflow or torch; install one, for instance: {pip()} install jax")
    os.environ["KERAS_BACKEND"] = named or installed[0]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # warnings and errors only
    with _uncollected():
        import keras

    return str(keras.backend.backend())


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep Python from looking for garbage among what is imported here, now, later and at exit.

    TensorFlow's modules are a million objects: of 5 s of computing to import Keras and to exit, 2 go into that.
    """
    if "keras" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


class KerasEngine:
    """A network of a run folder."""

    name = "keras"

    def __init__(self, run: Path, name: str = "model.keras") -> None:
        """Load the run's network; UsageError when there is none, BloodedgeError when it is damaged."""
        self.model = load_model(run, name)
        self.runtime = _runtime()

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Class probabilities float32 (N, classes) of network inputs uint8 (N, *ImagingSpec.input_shape), RGB.

        Only batches of 1 and of 64 are ever run (the last one padded), so that the back end compiles no others.
        """
        if len(images) == 1:
            return self._batch(images)
        parts = [np.empty((0, *self.model.output_shape[1:]), np.float32)]
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            padded = np.concatenate([part, np.zeros((BATCH - len(part), *part.shape[1:]), np.uint8)])
            parts.append(self._batch(padded)[: len(part)])
        return np.concatenate(parts)

    def _batch(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(self.model.predict_on_batch(images), np.float32)


def load_model(run: Path, name: str = "model.keras") -> Any:
    """A Keras model of a run folder, ready for inference; raises as KerasEngine."""
    path = run / name
    if not path.is_file():
        raise UsageError(
            f"{run} is not a finished run folder (no {name}); make one with: bloodedge train DATA --out RUN"
        )
    load_keras()
    import keras

    try:
        return keras.models.load_model(path, compile=False)
    except (ValueError, OSError, TypeError, KeyError) as error:
        raise BloodedgeError(f"{path} cannot be loaded by Keras {keras.__version__}; train the run again.") from error


def _runtime() -> str:
    import keras

    backend = keras.backend.backend()
    for package in BACKEND_PACKAGES.get(backend, ()):
        try:
            return f"keras {keras.__version__} ({backend} {importlib.metadata.version(package)})"
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"keras {keras.__version__} ({backend})"
