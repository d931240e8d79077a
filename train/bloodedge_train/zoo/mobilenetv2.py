"""MobileNetV2: Sandler et al., "Inverted residuals and linear bottlenecks", CVPR 2018 (keras.applications)."""

from typing import Any


def scale(image: Any) -> Any:
    """uint8 0..255 to float32 -1..1."""
    import keras

    return keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")(image)


def features(variant: str, size_px: int, *, imagenet: bool) -> Any:
    """The network up to its last feature map (N, H/32, W/32, 1280), width multiplier ``variant``.

    With ``imagenet`` the published weights are downloaded (once); any error of Keras' downloader passes through.
    """
    import keras

    return keras.applications.MobileNetV2(
        input_shape=(size_px, size_px, 3),
        alpha=float(variant),
        include_top=False,
        weights="imagenet" if imagenet else None,
        name="features",
    )
