"""AlexNet: Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014.

The one-tower version of 2014, as torchvision has it: 64 filters in the first layer, no local response normalisation.
(Two towers with it: Krizhevsky et al., "ImageNet classification with deep convolutional neural networks", 2012.) Its
two fully connected layers of 4096 units give way to the zoo's own head.
"""

from typing import Any

from bloodedge_train.zoo.layers import imagenet

scale = imagenet

CONVOLUTIONS = (
    (64, 11, 4, 2, True),
    (192, 5, 1, 2, True),
    (384, 3, 1, 1, False),
    (256, 3, 1, 1, False),
    (256, 3, 1, 1, True),
)
"""Filters, kernel, strides, padding, whether pooled after."""
PUBLISHED = None


def features(size_px: int) -> Any:
    """The network up to its last pooled feature map (N, about H/37, about W/37, 256)."""
    import keras
    from keras import layers

    image = keras.Input((size_px, size_px, 3), name="scaled")
    x = image
    for number, (filters, kernel, strides, padding, pooled) in enumerate(CONVOLUTIONS, start=1):
        x = _convolution(x, filters, kernel, strides, padding, f"conv{number}")
        if pooled:
            x = layers.MaxPooling2D(3, 2, name=f"pool{number}")(x)
    return keras.Model(image, x, name="features")


def _convolution(x: Any, filters: int, kernel: int, strides: int, padding: int, name: str) -> Any:
    """Convolution and ReLU. He et al.'s initialisation (ICCV 2015): the paper's fixed 0.01 was for its data."""
    from keras import layers

    same = "same" if strides == 1 else "valid"
    if same == "valid":
        x = layers.ZeroPadding2D(padding, name=f"{name}_pad")(x)
    return layers.Conv2D(filters, kernel, strides, same, activation="relu", kernel_initializer="he_normal", name=name)(
        x
    )
