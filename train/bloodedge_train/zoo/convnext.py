"""ConvNeXt: Liu et al., "A ConvNet for the 2020s", CVPR 2022 (keras.applications)."""

from typing import Any

from bloodedge_train.zoo.scaling import imagenet
from bloodedge_train.zoo.weights import Published

scale = imagenet

VARIANTS = {"tiny": "ConvNeXtTiny"}
STORE = "https://storage.googleapis.com/tensorflow/keras-applications/convnext/"
PUBLISHED = {
    "tiny": Published(
        STORE + "convnext_tiny_notop.h5", "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1"
    )
}


def features(variant: str, size_px: int) -> Any:
    """The network up to its last, normalised feature map (N, H/32, W/32, 768)."""
    import keras

    network = getattr(keras.applications, VARIANTS[variant])
    return network(
        input_shape=(size_px, size_px, 3),
        include_preprocessing=False,
        include_top=False,
        weights=None,
        name="features",
    )
