"""The machine that trains: Keras' back end, the accelerator's name, the versions that a run records."""

import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path

from bloodedge.errors import UsageError

BACKENDS = ("jax", "tensorflow", "torch")
RECORDED = ("keras", "jax", "tensorflow", "tensorflow-cpu", "torch", "numpy", "opencv-python-headless")


def choose_backend() -> str:
    """Make Keras use KERAS_BACKEND, or else the first back end installed; call before Keras is imported."""
    named = os.environ.get("KERAS_BACKEND")
    if importlib.util.find_spec("keras") is None:
        raise UsageError("Keras is not installed here; install it with: pip install 'bloodedge[train]'")
    installed = [name for name in BACKENDS if importlib.util.find_spec(name) is not None]
    if named and named not in installed:
        raise UsageError(f"KERAS_BACKEND is {named}, which is not installed here; unset it or install {named}.")
    if not installed:
        raise UsageError(f"Keras needs one of {', '.join(BACKENDS)}; install one, for instance: pip install jax")
    backend = named or installed[0]
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return backend


def accelerator() -> str:
    """The device that the back end computes on, by its maker's name."""
    import keras

    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        device = jax.devices()[0]
        return str(device.device_kind) if device.platform != "cpu" else cpu_name()
    if backend == "torch":
        import torch

        return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else cpu_name()
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return str(tf.config.experimental.get_device_details(gpus[0])["device_name"]) if gpus else cpu_name()


def cpu_name() -> str:
    """The processor's name with its core count."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        rows = (line.partition(":") for line in info.read_text().splitlines())
        name = next((value.strip() for key, _, value in rows if key.strip() in {"model name", "Model"}), name)
    return f"{name}, {os.cpu_count()} cores"


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    found = {"python": platform.python_version()}
    for package in RECORDED:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
