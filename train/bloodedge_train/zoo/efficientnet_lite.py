"""EfficientNet-Lite: Tan and Le's EfficientNet (ICML 2019) as its authors made it for edge devices, 2020.

github.com/tensorflow/tpu, models/official/efficientnet/lite: no squeeze-and-excitation, ReLU6 for swish, so that every
layer has a fused int8 kernel.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from bloodedge_train.zoo.layers import conv_norm, fan_out, rescaled

STEM, TOP = 32, 1280
DROP_CONNECT = 0.2
"""Stochastic depth of the last block; earlier blocks less, linearly."""


@dataclass(frozen=True)
class Stage:
    """A row of table 1 of the paper."""

    repeats: int
    kernel: int
    strides: int
    expansion: int
    filters: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
"""Of Lite0; the others scale all but the first and the last stage, and neither stem nor top."""
PUBLISHED = None


def scale(image: Any) -> Any:
    """RGB 0..255 to about -1..1, float32: less 127, over 128."""
    return rescaled(image, 1 / 128, -127 / 128)


def features(size_px: int, width: float = 1.0, depth: float = 1.0) -> Any:
    """The network up to its last feature map (N, H/32, W/32, 1280).

    width, depth: factors of a stage's filters and repeats: 1 and 1 are Lite0, 1 and 1.1 Lite1, 1.1 and 1.2 Lite2.
    """
    import keras

    stages = [_scaled(stage, number, width, depth) for number, stage in enumerate(STAGES)]
    blocks = sum(stage.repeats for stage in stages)
    image = keras.Input((size_px, size_px, 3), name="scaled")
    x = _conv_norm(image, STEM, 3, 2, "stem")
    number = 0
    for stage in stages:
        for repeat in range(stage.repeats):
            strides = stage.strides if repeat == 0 else 1
            x = _inverted_residual(x, stage, strides, DROP_CONNECT * number / blocks, f"block{number + 1}")
            number += 1
    return keras.Model(image, _conv_norm(x, TOP, 1, 1, "top"), name="features")


def _scaled(stage: Stage, number: int, width: float, depth: float) -> Stage:
    """A stage with more blocks, and filters in the nearest multiple of 8 that is no less than nine tenths of them."""
    filters = max(8, int(stage.filters * width + 4) // 8 * 8)
    if filters < 0.9 * stage.filters * width:
        filters += 8
    ends = number in {0, len(STAGES) - 1}
    return replace(stage, filters=filters, repeats=stage.repeats if ends else math.ceil(stage.repeats * depth))


def _inverted_residual(x: Any, stage: Stage, strides: int, drop: float, name: str) -> Any:
    """1x1 to ``expansion`` times as many channels, depthwise, 1x1 to ``filters``, added where the shape stays."""
    from keras import layers

    channels = x.shape[-1]
    y = _conv_norm(x, channels * stage.expansion, 1, 1, f"{name}_expand") if stage.expansion > 1 else x
    y = layers.DepthwiseConv2D(
        stage.kernel,
        strides,
        padding="same",
        use_bias=False,
        depthwise_initializer=fan_out(),
        name=f"{name}_depthwise",
    )(y)
    y = layers.ReLU(6, name=f"{name}_depthwise_relu")(layers.BatchNormalization(name=f"{name}_depthwise_norm")(y))
    y = _conv_norm(y, stage.filters, 1, 1, f"{name}_project", relu=False)
    if strides > 1 or channels != stage.filters:
        return y
    y = layers.Dropout(drop, noise_shape=(None, 1, 1, 1), name=f"{name}_drop")(y)
    return layers.Add(name=f"{name}_add")([y, x])


def _conv_norm(x: Any, filters: int, kernel: int, strides: int, name: str, *, relu: bool = True) -> Any:
    return conv_norm(x, filters, kernel, strides, name, most=6, relu=relu, kernel_initializer=fan_out())
