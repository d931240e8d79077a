"""Xception: Chollet, "Deep learning with depthwise separable convolutions", CVPR 2017 (keras.applications)."""

from typing import Any

from bloodedge_train.zoo.scaling import signed
from bloodedge_train.zoo.weights import Published

scale = signed

VARIANTS = {"1": "Xception"}
STORE = "https://storage.googleapis.com/tensorflow/keras-applications/xception/"
PUBLISHED = {
    "1": Published(STORE + "xception_weights_tf_dim_ordering_tf_kernels_notop.h5", "b0042744bf5b25fce3cb969f33bebb97")
}


def features(variant: str, size_px: int) -> Any:
    """The network up to its last feature map (N, about H/32, about W/32, 2048)."""
    import keras

    network = getattr(keras.applications, VARIANTS[variant])
    return network(input_shape=(size_px, size_px, 3), include_top=False, weights=None, name="features")
