"""The machine that trains, and what its runs record of it."""

import os

from bloodedge.host import hardware_name

RECORDED = ("keras", "jax", "tensorflow", "tensorflow-cpu", "torch", "numpy", "opencv-python-headless")
"""Packages that a run's figures depend on."""


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
