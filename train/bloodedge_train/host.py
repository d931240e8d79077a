"""The machine that trains: Keras' back end, the accelerator's name, the versions that a run records."""

import importlib.metadata
import importlib.util
import os
import platform

from bloodedge.bench import hardware_name

RECORDED = ("keras", "jax", "tensorflow", "tensorflow-cpu", "torch", "numpy", "opencv-python-headless")


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
