"""MobileNetV2: Sandler et al., "Inverted residuals and linear bottlenecks", CVPR 2018 (keras.applications)."""

from typing import Any

from bloodedge_train.zoo.layers import application, signed
from bloodedge_train.zoo.weights import KERAS_STORE, Published

scale = signed

PUBLISHED = Published(
    KERAS_STORE + "mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5", None
)


def features(size_px: int) -> Any:
    """The network up to its last feature map (N, H/32, W/32, 1280)."""
    return application("MobileNetV2", size_px)
