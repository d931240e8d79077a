"""What rounding to few bits adds to features, so that a head can be fitted that minds it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge_train import zoo
from bloodedge_train.heads.backbone import Backbone, pool_maps

BATCH = 32


def rounding_noise(backbone: Backbone, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(N, D): what bfloat16 adds to each feature of N network inputs, less its mean, which conversion corrects.

    images: uint8 (N, H, W, 3) or (N, V, H, W, 3) RGB. bfloat16 has 8 significant bits, as int8 has.
    """
    frames = images.reshape(-1, *images.shape[-3:])
    difference = _features(_rounded(backbone), frames, len(images)) - _features(backbone.pooled, frames, len(images))
    return np.asarray(difference - difference.mean(axis=0), np.float64)


def _rounded(backbone: Backbone) -> Any:
    """The same network in bfloat16."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        copy = keras.models.clone_model(backbone.maps, clone_function=_in_bfloat16)
    finally:
        keras.config.set_dtype_policy(before)
    copy.set_weights(backbone.maps.get_weights())
    size = backbone.size_px
    frame = keras.Input((size, size, 3), dtype="uint8", name="image")
    return keras.Model(frame, pool_maps(copy(zoo.scale(backbone.model, frame))))


def _in_bfloat16(layer: Any) -> Any:
    return type(layer).from_config({**layer.get_config(), "dtype": "mixed_bfloat16"})


def _features(pooled: Any, frames: NDArray[np.uint8], count: int) -> NDArray[np.float32]:
    """(count, D) in the order of ``heads.features``: of each depth in turn those of every view."""
    outputs = pooled.predict(frames, batch_size=BATCH, verbose=0)
    depths = outputs if isinstance(outputs, list) else [outputs]
    return np.concatenate([np.asarray(values, np.float32).reshape(count, -1) for values in depths], axis=1)
