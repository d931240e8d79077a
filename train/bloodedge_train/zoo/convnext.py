"""ConvNeXt: Liu et al., "A ConvNet for the 2020s", CVPR 2022 (keras.applications)."""

from typing import Any

from bloodedge_train.zoo.layers import application, imagenet
from bloodedge_train.zoo.weights import KERAS_STORE, Published

scale = imagenet

PUBLISHED = Published(
    KERAS_STORE + "convnext/convnext_tiny_notop.h5", "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1"
)


def features(size_px: int) -> Any:
    """The network up to its last, normalised feature map (N, H/32, W/32, 768)."""
    return application("ConvNeXtTiny", size_px, include_preprocessing=False)
