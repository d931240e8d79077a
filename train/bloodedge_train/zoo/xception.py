"""Xception: Chollet, "Deep learning with depthwise separable convolutions", CVPR 2017 (keras.applications)."""

from typing import Any

from bloodedge_train.zoo.layers import application, signed
from bloodedge_train.zoo.weights import KERAS_STORE, Published

scale = signed

PUBLISHED = Published(
    KERAS_STORE + "xception/xception_weights_tf_dim_ordering_tf_kernels_notop.h5", "b0042744bf5b25fce3cb969f33bebb97"
)


def features(size_px: int) -> Any:
    """The network up to its last feature map (N, about H/32, about W/32, 2048)."""
    return application("Xception", size_px)
