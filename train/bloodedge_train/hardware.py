"""The training machine, as recorded in runs."""

import os

from bloodedge.errors import UsageError
from bloodedge.machine import hardware_name

RECORDED = ("keras", "jax", "tensorflow", "tensorflow-cpu", "torch", "numpy", "opencv-python-headless")
"""Packages that a run's figures depend on."""


def spread(batch: int) -> int:
    """Divide each batch over all accelerators if there are several (JAX); returns their number.

    Raises UsageError when the batch cannot be divided evenly.
    """
    import keras

    if keras.backend.backend() != "jax":
        return 1
    devices = keras.distribution.list_devices()
    if len(devices) > 1:
        if batch % len(devices):
            raise UsageError(
                f"A batch of {batch} cells cannot be divided over {len(devices)} devices; make fit.batch a multiple."
            )
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False))
    return len(devices)


def accelerator() -> str:
    """The device that the back end computes on, by its maker's name; a CPU with its number of cores."""
    return _gpu() or f"{hardware_name()}, {os.cpu_count()} cores"


def precision(asked: str) -> str:
    """The dtype policy to fit in: the recipe's on an accelerator, float32 on a CPU, which gains nothing."""
    return asked if _gpu() else "float32"


def has_gpu() -> bool:
    """Whether the back end computes on an accelerator."""
    return _gpu() is not None


def _gpu() -> str | None:
    """The accelerator's name, where there is one."""
    import keras

    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        device = jax.devices()[0]
        return None if device.platform == "cpu" else str(device.device_kind)
    if backend == "torch":
        import torch

        return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return str(tf.config.experimental.get_device_details(gpus[0])["device_name"]) if gpus else None
