"""What the families share: the image scaled inside the graph, networks of keras.applications, and common layers."""

from typing import Any

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's RGB mean and standard deviation, 0..1."""


def signed(image: Any) -> Any:
    """To -1..1."""
    return rescaled(image, 1 / 127.5, -1.0)


def imagenet(image: Any) -> Any:
    """To ImageNet's mean 0 and standard deviation 1, per channel."""
    return rescaled(image, [1 / (255 * std) for std in STD], [-mean / std for mean, std in zip(MEAN, STD, strict=True)])


def rescaled(image: Any, scale: float | list[float], offset: float | list[float]) -> Any:
    """``image * scale + offset``, each one number or one per channel: RGB 0..255 (N, H, W, 3) in, float32 out.

    Always float32, whatever the dtype policy: bfloat16's 8 bits would round a scaled byte. Constants are in a
    Rescaling, not in a Normalization, whose constants some exports lose.
    """
    import keras

    return keras.layers.Rescaling(scale, offset=offset, dtype="float32", name="scale")(image)


def spread_views(x: Any) -> Any:
    """Symbolic views (N, V, H, W, C) as a batch of N * V images (N * V, H, W, C); images stay as they are."""
    from keras import ops

    return x if len(x.shape) == 4 else ops.reshape(x, (-1, *x.shape[2:]))


def gather_views(x: Any, views: int) -> Any:
    """Symbolic features (N * views, C) of views, with those of one cell side by side: (N, views * C)."""
    from keras import ops

    return x if views == 1 else ops.reshape(x, (-1, views * x.shape[-1]))


def application(network: str, size_px: int, **options: Any) -> Any:
    """The features of one of keras.applications' networks, without weights."""
    import keras

    make = getattr(keras.applications, network)
    return make(input_shape=(size_px, size_px, 3), include_top=False, weights=None, name="features", **options)


def conv_norm(
    x: Any,
    filters: int,
    kernel: int,
    strides: int,
    name: str,
    *,
    most: float | None = None,
    relu: bool = True,
    norm: dict[str, float] | None = None,
    **convolution: Any,
) -> Any:
    """A convolution without bias, batch normalisation and, if ``relu``, a ReLU that ends at ``most``.

    norm, convolution: further options of these two layers; the padding is "same" by default.
    """
    from keras import layers

    options = {"padding": "same", "use_bias": False, **convolution}
    x = layers.Conv2D(filters, kernel, strides, name=f"{name}_conv", **options)(x)
    x = layers.BatchNormalization(name=f"{name}_norm", **(norm or {}))(x)
    return layers.ReLU(most, name=f"{name}_relu")(x) if relu else x


def fan_out() -> Any:
    """He et al.'s initialisation by a layer's outputs (ICCV 2015), as TensorFlow's own networks have it."""
    import keras

    return keras.initializers.VarianceScaling(2.0, "fan_out", "truncated_normal")
