"""EdgeNet: a small chain of depthwise separable convolutions for the weakest boards, and for quick demonstrations.

After Howard et al., "MobileNets", 2017, with ReLU only: every layer has a fused int8 kernel in XNNPACK and OpenVINO.
"""

from typing import Any

from bloodedge_train.zoo.layers import conv_norm, signed

scale = signed

BLOCKS = ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1))
"""Filters and strides of each separable convolution after a stem of 16 filters."""
PUBLISHED = None


def features(size_px: int) -> Any:
    """The network up to its last feature map (N, H/16, W/16, 256)."""
    import keras

    image = keras.Input((size_px, size_px, 3), name="scaled")
    x = conv_norm(image, 16, 3, 2, "stem")
    for number, (filters, strides) in enumerate(BLOCKS, start=1):
        x = _separable(x, filters, strides, f"block{number}")
    return keras.Model(image, x, name="features")


def _separable(x: Any, filters: int, strides: int, name: str) -> Any:
    from keras import layers

    x = layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False, name=f"{name}_depthwise")(x)
    x = layers.ReLU(name=f"{name}_depthwise_relu")(layers.BatchNormalization(name=f"{name}_depthwise_norm")(x))
    x = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_pointwise")(x)
    return layers.ReLU(name=f"{name}_pointwise_relu")(layers.BatchNormalization(name=f"{name}_pointwise_norm")(x))
