"""ResNet-RS: Bello et al., "Revisiting ResNets: improved training and scaling strategies", NeurIPS 2021.

A ResNet-D stem, bottlenecks with squeeze-and-excitation, stochastic depth. Layers come in the order of Keras 2's
implementation, so that its published weight files load.
"""

from typing import Any

from bloodedge_train.zoo.layers import conv_norm, fan_out, imagenet
from bloodedge_train.zoo.weights import KERAS_STORE, Published

scale = imagenet

SE_RATIO = 0.25
DROP_CONNECT = 0.2
"""Stochastic depth of the last group; earlier groups less, linearly (section 4.2 of the paper)."""

DEPTHS = (3, 4, 6, 3)
"""Bottlenecks per group."""

PUBLISHED = Published(KERAS_STORE + "resnet_rs/resnet-rs-50-i160_notop.h5", "90daa68cd26c95aa6c5d25451e095529")


def features(size_px: int) -> Any:
    """The network up to its last feature map (N, H/32, W/32, 2048)."""
    import keras

    image = keras.Input((size_px, size_px, 3), name="scaled")
    x = _stem(image)
    for group, repeats in enumerate(DEPTHS):
        drop = DROP_CONNECT * (group + 2) / (len(DEPTHS) + 1)
        for block in range(repeats):
            x = _bottleneck(x, 64 * 2**group, f"group{group + 2}_block{block}", drop, first=block == 0, halve=group > 0)
    return keras.Model(image, x, name="features")


def _stem(x: Any) -> Any:
    for number, (filters, strides) in enumerate(((32, 2), (32, 1), (64, 1), (64, 2)), start=1):
        x = _conv_norm(x, filters, 3, strides, f"stem_{number}")
    return x


def _bottleneck(x: Any, filters: int, name: str, drop: float, *, first: bool, halve: bool) -> Any:
    """1x1 to ``filters``, 3x3, 1x1 to four times as many, squeezed and excited, added to a shortcut."""
    from keras import layers

    strides = 2 if first and halve else 1
    shortcut = x
    if first:
        if strides == 2:
            shortcut = layers.AveragePooling2D(2, 2, padding="same", name=f"{name}_shortcut_pool")(x)
        shortcut = _conv_norm(shortcut, 4 * filters, 1, 1, f"{name}_shortcut", relu=False)
    y = _conv_norm(x, filters, 1, 1, f"{name}_1")
    y = _conv_norm(y, filters, 3, strides, f"{name}_2")
    y = _conv_norm(y, 4 * filters, 1, 1, f"{name}_3", relu=False)
    y = _squeeze_excite(y, filters, name)
    y = layers.Dropout(drop, noise_shape=(None, 1, 1, 1), name=f"{name}_drop")(y)
    return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([y, shortcut]))


def _squeeze_excite(x: Any, filters: int, name: str) -> Any:
    """Channel weights from global means (Hu et al., CVPR 2018), reduced to a quarter in between."""
    from keras import layers

    channels = 4 * filters
    weights = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(x)
    for filters_out, activation, step in (
        (int(channels * SE_RATIO), "relu", "reduce"),
        (channels, "sigmoid", "expand"),
    ):
        layer = layers.Conv2D(
            filters_out, 1, activation=activation, kernel_initializer=fan_out(), name=f"{name}_{step}"
        )
        weights = layer(weights)
    return layers.Multiply(name=f"{name}_excite")([x, weights])


def _conv_norm(x: Any, filters: int, kernel: int, strides: int, name: str, *, relu: bool = True) -> Any:
    from keras import layers

    padding = "same"
    if strides > 1:
        # Symmetric padding, as in the reference; "same" would pad only right and below.
        x = layers.ZeroPadding2D((kernel - 1) // 2, name=f"{name}_pad")(x)
        padding = "valid"
    norm = {"epsilon": 1e-5}
    return conv_norm(
        x, filters, kernel, strides, name, relu=relu, norm=norm, padding=padding, kernel_initializer=fan_out()
    )
