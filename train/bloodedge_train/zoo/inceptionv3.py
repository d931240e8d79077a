"""Inception: Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016.

keras.applications' network.
"""

from typing import Any

from bloodedge_train.zoo.layers import application, signed
from bloodedge_train.zoo.weights import KERAS_STORE, Published

scale = signed

PUBLISHED = Published(
    KERAS_STORE + "inception_v3/inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
    "bcbd6486424b2319ff4ef7d526e38f63",
)


def features(size_px: int) -> Any:
    """The network up to its last feature map (N, about H/32 - 2, about W/32 - 2, 2048)."""
    return application("InceptionV3", size_px)
