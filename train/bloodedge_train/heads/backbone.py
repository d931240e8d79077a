"""A zoo's network up to its features, which stay as they are, and the same network with a logistic head."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.errors import UsageError
from bloodedge_train import zoo
from bloodedge_train.zoo.layers import gather_views, spread_views

if TYPE_CHECKING:
    from bloodedge.logistic.rule import Linear
    from bloodedge_train.heads.logistic import Head

HALVES, BOTH = (-0.5, 0.5), (1.0, 1.0)
"""What log-odds are as logits of normal and blast; and a number that is the same for both."""


@dataclass(frozen=True)
class Backbone:
    """Features of frames uint8 (N, size_px, size_px, 3) RGB: feature maps at several depths, averaged over the map."""

    model: str
    """Its name in the zoo, or several joined by "+"."""
    size_px: int
    maps: Any
    """A Keras model named "features": a frame as ``zoo.scale`` gives it to the feature maps, from the lowest."""
    pooled: Any
    """A Keras model: a frame to float32 (N, c) of each depth."""
    digest: str
    """SHA-256 over the weights and the depths."""

    @property
    def widths(self) -> list[int]:
        """Features of each depth."""
        return [int(output.shape[-1]) for output in self.pooled.outputs]


def open_backbone(model: str, size_px: int, depths: Sequence[float | str], weights: str) -> Backbone:
    """A network of the zoo, or several side by side, with weights: "imagenet", or the path of a file or folder.

    depths: as in ``zoo.feature_maps``. Raises UsageError for "none", an unknown model or depth, or another
    network's weights; BloodedgeError when the weights cannot be had.
    """
    import keras

    if weights == "none":
        raise UsageError(
            "A head is fitted to features that a network has learnt elsewhere; give them with --weights imagenet or "
            "--weights PATH."
        )
    maps = zoo.feature_maps(model, size_px, depths, weights)
    frame = keras.Input((size_px, size_px, 3), dtype="uint8", name="image")
    averages = [pooled(found) for found in as_list(maps(zoo.scale(model, frame)))]
    return Backbone(model, size_px, maps, keras.Model(frame, averages), _digest(maps))


def with_heads(backbone: Backbone, heads: "Sequence[Head]", views: int = 1) -> Any:
    """The whole network: uint8 (N, size_px, size_px, 3) RGB, or (N, views, ...) for several, to probabilities float32.

    (N, 2) for one head, (N, heads, 2) for several.
    """
    import keras

    size, count = backbone.size_px, len(heads)
    image = keras.Input((size, size, 3) if views == 1 else (views, size, size, 3), dtype="uint8", name="image")
    maps = as_list(backbone.maps(zoo.scale(backbone.model, spread_views(image))))
    averages = [gather_views(pooled(found), views) for found in maps]
    parts = zip(*(head.rule.linear for head in heads), strict=True)
    logits = [
        _logits(averages, rules, name, signs)
        for rules, (name, signs) in zip(parts, (("logits", HALVES), ("more", HALVES), ("gate", BOTH)), strict=False)
    ]
    total = logits[0]
    if len(logits) > 1:
        share = keras.layers.Activation("sigmoid", dtype="float32", name="own_bench")(logits[2])
        more = keras.layers.Multiply(dtype="float32", name="more_at_own_bench")([logits[1], share])
        total = keras.layers.Add(dtype="float32", name="all_logits")([total, more])
    if count > 1:
        total = keras.layers.Reshape((count, 2), dtype="float32", name="heads")(total)
    output = keras.layers.Softmax(dtype="float32", name="probabilities")(total)
    return keras.Model(image, output, name=backbone.model.replace("+", "_"))


def _logits(averages: "Sequence[Any]", rules: "Sequence[Linear]", name: str, signs: tuple[float, float]) -> Any:
    """Symbolic (N, 2 * rules): each rule's log-odds times each sign.

    Each depth has a fully connected layer of its own, and their outputs are added: int8 then has a scale for each
    depth, where features of all depths side by side would share one.
    """
    import keras

    units, count = 2 * len(rules), len(averages)
    dense = [keras.layers.Dense(units, dtype="float32", name=f"{name}_{number + 1}") for number in range(count)]
    found = [layer(average) for layer, average in zip(dense, averages, strict=True)]
    weights = np.stack([rule.weights for rule in rules], axis=1)
    bias = np.outer([rule.bias for rule in rules], signs).ravel()
    ends = np.cumsum([average.shape[-1] for average in averages])[:-1]
    for layer, part in zip(dense, np.split(weights, ends), strict=True):
        kernel = (part[:, :, None] * np.array(signs)).reshape(len(part), units)
        layer.set_weights([kernel, bias / count])  # a bias of zero would be left out, and int8 could not correct it
    return keras.layers.Add(dtype="float32", name=name)(found) if count > 1 else found[0]


def pooled(maps: Any) -> Any:
    """A symbolic feature map (N, h, w, c) averaged over the map, float32 (N, c)."""
    import keras

    return keras.layers.GlobalAveragePooling2D(dtype="float32")(maps)


def as_list(outputs: Any) -> list[Any]:
    """What a Keras model of one or several outputs gives, as a list."""
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]


def _digest(maps: Any) -> str:
    found = hashlib.sha256()
    for weight in maps.get_weights():
        array: NDArray[Any] = np.ascontiguousarray(weight)
        found.update(f"{array.shape} {array.dtype}".encode())
        found.update(array.tobytes())
    names = [one.name for one in maps.operations]
    tapped = [names.index(one._keras_history.operation.name) for one in maps.outputs]
    found.update(str(tapped).encode())
    return found.hexdigest()
