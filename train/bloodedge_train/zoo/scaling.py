"""What networks expect of their input, as layers inside the graph: image (N, H, W, 3) RGB 0..255 in, float32 out.

Always float32, whatever the dtype policy: bfloat16's 8 bits would round a scaled byte. Constants are in a Rescaling,
not in a Normalization, whose constants some exports lose.
"""

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
    """``image * scale + offset``, each one number or one per channel."""
    import keras

    return keras.layers.Rescaling(scale, offset=offset, dtype="float32", name="scale")(image)
