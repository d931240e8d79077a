"""Inception: Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016.

keras.applications' network.
"""

from typing import Any

from bloodedge_train.zoo.scaling import signed
from bloodedge_train.zoo.weights import Published

scale = signed

VARIANTS = {"3": "InceptionV3"}
STORE = "https://storage.googleapis.com/tensorflow/keras-applications/inception_v3/"
PUBLISHED = {
    "3": Published(
        STORE + "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5", "bcbd6486424b2319ff4ef7d526e38f63"
    )
}


def features(variant: str, size_px: int) -> Any:
    """The network up to its last feature map (N, about H/32 - 2, about W/32 - 2, 2048)."""
    import keras

    network = getattr(keras.applications, VARIANTS[variant])
    return network(input_shape=(size_px, size_px, 3), include_top=False, weights=None, name="features")
