"""VGG: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015.

keras.applications' features. The two fully connected layers of 4096 units give way to the zoo's own head.
"""

from typing import Any

from bloodedge_train.zoo.layers import application, rescaled
from bloodedge_train.zoo.weights import KERAS_STORE, Published

MEAN = (123.68, 116.779, 103.939)
"""ImageNet's RGB mean, 0..255."""

PUBLISHED = Published(
    KERAS_STORE + "vgg19/vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5", "253f8cb515780f3b799900260a226db6"
)


def scale(image: Any) -> Any:
    """RGB 0..255 to BGR about ImageNet's mean, as the authors' Caffe had it, float32."""
    from keras import ops

    # Split and joined rather than reversed: both have int8 kernels, a reversal has none.
    red, green, blue = ops.split(rescaled(image, 1.0, [-mean for mean in MEAN]), 3, axis=-1)
    return ops.concatenate([blue, green, red], axis=-1)


def features(size_px: int) -> Any:
    """The network up to its last pooled feature map (N, H/32, W/32, 512)."""
    return application("VGG19", size_px)
