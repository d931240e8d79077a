"""MobileNetV2: Sandler et al., "Inverted residuals and linear bottlenecks", CVPR 2018 (keras.applications)."""

from typing import Any

from bloodedge_train.zoo.scaling import signed
from bloodedge_train.zoo.weights import Published

scale = signed

VARIANTS = {"1.0": 1.0}
"""Width multipliers."""

STORE = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
PUBLISHED = {
    "1.0": Published(STORE + "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5", None),
}


def features(variant: str, size_px: int) -> Any:
    """The network up to its last feature map (N, H/32, W/32, 1280)."""
    import keras

    return keras.applications.MobileNetV2(
        input_shape=(size_px, size_px, 3),
        alpha=VARIANTS[variant],
        include_top=False,
        weights=None,
        name="features",
    )
