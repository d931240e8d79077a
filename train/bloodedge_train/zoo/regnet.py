"""RegNetX: Radosavovic et al., "Designing network design spaces", CVPR 2020.

A stem and four stages of bottlenecks with grouped convolutions, widths and depths on a quantised line. Layers come in
the order of Keras 2's implementation, so that its published weight files load.
"""

from typing import Any

from bloodedge_train.zoo.layers import conv_norm, rescaled
from bloodedge_train.zoo.weights import KERAS_STORE, Published

STEM = 32
DEPTHS, WIDTHS = (2, 4, 10, 2), (72, 168, 408, 912)
"""Blocks and filters of each stage."""
GROUP_WIDTH = 24
"""Filters in one group of the 3x3 convolutions."""
PUBLISHED = Published(
    KERAS_STORE + "regnet/regnetx016_notop.h5", "1b8e3d545d190271204a7b2165936a227d26b79bb7922bac5ee4d303091bf17a"
)


def scale(image: Any) -> Any:
    """RGB 0..255 to 0..1, float32: the reference does no more."""
    return rescaled(image, 1 / 255, 0.0)


def features(size_px: int) -> Any:
    """The network up to its last feature map (N, H/32, W/32, the last width)."""
    import keras

    image = keras.Input((size_px, size_px, 3), name="scaled")
    x = _conv_norm(image, STEM, 3, 2, "stem")
    for stage, (depth, width) in enumerate(zip(DEPTHS, WIDTHS, strict=True), start=1):
        for block in range(depth):
            x = _bottleneck(x, width, width // GROUP_WIDTH, f"stage{stage}_block{block}", first=block == 0)
    return keras.Model(image, x, name="features")


def _bottleneck(x: Any, filters: int, groups: int, name: str, *, first: bool) -> Any:
    """1x1, grouped 3x3, 1x1, all of ``filters``, added to a shortcut; the first of a stage halves the map."""
    from keras import layers

    strides = 2 if first else 1
    shortcut = _conv_norm(x, filters, 1, strides, f"{name}_shortcut", relu=False) if first else x
    y = _conv_norm(x, filters, 1, 1, f"{name}_1")
    y = _conv_norm(y, filters, 3, strides, f"{name}_2", groups=groups)
    y = _conv_norm(y, filters, 1, 1, f"{name}_3", relu=False)
    return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([y, shortcut]))


def _conv_norm(x: Any, filters: int, kernel: int, strides: int, name: str, **options: Any) -> Any:
    norm = {"momentum": 0.9, "epsilon": 1e-5}
    return conv_norm(x, filters, kernel, strides, name, norm=norm, kernel_initializer="he_normal", **options)
