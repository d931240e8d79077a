"""EfficientNet: Tan and Le, "Rethinking model scaling for convolutional neural networks", ICML 2019.

keras.applications' network from its stem on. The layers before it divide by the square root of ImageNet's
standard deviation, and once more when it downloads its weights; ``scale`` divides by the standard deviation, once.
"""

from typing import Any

from bloodedge_train.zoo.layers import application, imagenet
from bloodedge_train.zoo.weights import Published

scale = imagenet

PUBLISHED = Published(
    "https://storage.googleapis.com/keras-applications/efficientnetb0_notop.h5", "50bc09e76180e00e4465e1a485ddc09d"
)


def features(size_px: int) -> Any:
    """The network up to its last feature map (N, H/32, W/32, 1280)."""
    import keras

    whole = application("EfficientNetB0", size_px)
    return keras.Model(whole.get_layer("stem_conv_pad").input, whole.output, name="features")
