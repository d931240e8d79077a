"""The machine that trains: Keras' back end, the accelerator's name, the versions that a run records."""

import importlib.metadata
import importlib.util
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bloodedge.bench import hardware_name
from bloodedge.errors import UsageError

ON_GPU, ON_CPU = ("jax", "torch", "tensorflow"), ("tensorflow", "torch", "jax")
"""Back ends in the order of preference; on a CPU TensorFlow fitted edgenet four times as fast as JAX."""
RECORDED = ("keras", "jax", "tensorflow", "tensorflow-cpu", "torch", "numpy", "opencv-python-headless")


def load_keras() -> str:
    """Import Keras on the back end that KERAS_BACKEND names, or else on the best one installed; returns its name."""
    if importlib.util.find_spec("keras") is None:
        raise UsageError("Keras is not installed here; install it with: pip install 'bloodedge[train]'")
    order = ON_GPU if Path("/dev/nvidia0").exists() else ON_CPU
    installed = [name for name in order if importlib.util.find_spec(name) is not None]
    named = os.environ.get("KERAS_BACKEND")
    if named and named not in installed:
        raise UsageError(f"KERAS_BACKEND is {named}, which is not installed here; unset it or install {named}.")
    if not installed:
        raise UsageError("Keras needs jax, tensorflow or torch; install one, for instance: pip install jax")
    os.environ["KERAS_BACKEND"] = named or installed[0]
    with _quiet():
        import keras
    return str(keras.backend.backend())


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what native libraries print while they load off the terminal, unless loading fails."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except BaseException:
            log.seek(0)
            os.write(terminal, log.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def accelerator() -> str:
    """The device that the back end computes on, by its maker's name; a CPU with its number of cores."""
    import keras

    cpu = f"{hardware_name()}, {os.cpu_count()} cores"
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        device = jax.devices()[0]
        return cpu if device.platform == "cpu" else str(device.device_kind)
    if backend == "torch":
        import torch

        return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else cpu
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return str(tf.config.experimental.get_device_details(gpus[0])["device_name"]) if gpus else cpu


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    found = {"python": platform.python_version()}
    for package in RECORDED:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
